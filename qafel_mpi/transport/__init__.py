"""Transport: frames over MPI. Nonblocking uppercase calls on preallocated buffers; opaque bytes only."""
