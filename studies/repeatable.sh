# To be sourced: trainings that give the same weights to the bit each time. One thread, since several add up in another
# order, and the instructions that every x86-64 processor of the last ten years has, since wider ones do too.
export OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2
