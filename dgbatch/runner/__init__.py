"""A job in, a verified dataset out; has never heard of tensors."""
