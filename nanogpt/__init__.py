"""The model library: tensors, token files and typed configs, and nothing else.

It reads no YAML, no command line and, but for what torchrun sets for a process in
`runtime.process_group`, no environment; it picks no default path, does nothing when it is imported,
and needs only torch, numpy and safetensors.
"""
