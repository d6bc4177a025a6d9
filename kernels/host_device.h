// PLIMSOLL_HD: the function also runs on the GPU, from the same source. Nothing for compilers other than nvcc.
#pragma once

#ifdef __CUDACC__
#define PLIMSOLL_HD __host__ __device__
#else
#define PLIMSOLL_HD
#endif
