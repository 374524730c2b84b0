"""Compiled kernels of the numba backend: serial, without checks, GIL released.

Every function here trusts its input: shapes agree, buckets are in range, values are finite.
None allows reassociation of floating-point operations, nor their contraction but in
``vectors.multiply_add``, whose results decide nothing alone: so that a result does not depend on
how rows are cut into blocks. Threads are handed ranges of rows or of
repetitions by the caller and write only there.
"""
