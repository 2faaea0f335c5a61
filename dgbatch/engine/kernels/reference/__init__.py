"""Every operation in plain PyTorch: what runs without a GPU, and what kernels are held against.

`plain` has the operations of the model, one tensor in and one out; the others are the twins of the kernels that a
whole step is made of (operations.py), each with the name and the signature of its kernel.
"""
