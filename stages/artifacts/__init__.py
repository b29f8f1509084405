"""The outputs of stages that other stages read: manifests and the files they list."""
