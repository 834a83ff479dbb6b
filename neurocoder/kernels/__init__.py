"""Fast forms of single operations: compiled C++ where there is a compiler, and PyTorch elsewhere."""
