"""A denoising step as a fixed list of launches over tensors that never move: how a GPU steps.

The device itself decides what comes next; the host says who may work and where pages are, and reads results late. All
of it runs on a CPU too, through the twins of the kernels, which is how it is tested.
"""
