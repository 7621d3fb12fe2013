/* MKL asks this function whether the processor is Intel's, and takes a slower path where it is not. Preloaded, this answers yes. */
int mkl_serv_intel_cpu_true(void) { return 1; }
