"""The page to try it: a scene and an instruction in a browser, and one piece of work at a time."""
