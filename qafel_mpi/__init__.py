"""qafel_mpi: asynchronous federated learning with bidirectional quantized messages, over MPI."""
