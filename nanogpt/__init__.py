"""The model library: tensors, token files and typed configs, and nothing else.

It reads no YAML, no environment and no command line, picks no default path, does nothing when it
is imported, and needs only torch, numpy and safetensors.
"""
