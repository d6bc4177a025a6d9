#!/bin/sh
# mpirun with what root, few cores and a machine without a network need; tests start their ranks so, users need none of it.
exec mpirun --oversubscribe --allow-run-as-root --mca mpi_yield_when_idle 1 --mca btl self,vader,tcp \
    --mca btl_tcp_if_include lo --mca oob_tcp_if_include lo "$@"
