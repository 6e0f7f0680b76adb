"""Released PyTorch weights -> the networks of imx2mx_jax.

`names` and its tables say which released tensor becomes which parameter; `reader` opens what was
released; `writer` writes converted folders; `__main__` is the command.
"""
