"""The model library: tensors, token files and typed configs, and nothing else.

It reads no YAML, no command line and no environment, apart from what torchrun sets for
`runtime.process_group`. It picks no default paths, does nothing when imported, and needs only
torch, numpy and safetensors.
"""
