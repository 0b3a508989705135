"""Moving and proving blocks: readers, writers, pipeline, manifest, stream-optimised VMDK, throttle."""
