"""Programs in Triton's language. Each file is one step of a block; nothing that is counted leaves the device."""
