"""Networks only: tensors in, tensors out. They know nothing of the method."""
