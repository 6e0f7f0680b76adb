"""The bundled miniature: models and scenes with which everything runs, with nothing downloaded.

bundled/ holds one converted folder for each kind of model (see weights.py); scenes/ holds rendered
scenes as transforms.json, pictures, depth and the edits that the models know. The models are ours,
trained on procedural scenes: a test bed, no substitute for the released ones.
"""
