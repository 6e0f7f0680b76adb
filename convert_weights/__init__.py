"""Released PyTorch weights -> the networks of imx2mx_jax, and back.

`names` and its tables say which released tensor becomes which parameter; `reader` opens what was
released; `writer` writes converted folders, `export` writes them back; `__main__` is the command.
"""
