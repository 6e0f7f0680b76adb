"""Novel views: a scene, a photograph or a finished run in, a video along a camera path out."""
