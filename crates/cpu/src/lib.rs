//! The CPU backend: references, kernels, threads and the executor.
