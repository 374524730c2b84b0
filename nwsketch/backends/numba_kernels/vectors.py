"""Vectors of numbers, for kernels that keep their sums in registers.

LLVM turns a loop over rows into vector code by itself, but not one with another loop inside it, whose sums
then travel through memory. Here a vector is a value like a number, to be used inside whatever loops: loaded
from flat arrays or by pointers, so many rows at a time, and stored there. A register holds as many float32;
of larger numbers LLVM takes two.

A tuple of eight vectors is a block. Functions take vectors or blocks, element by element; so do ``+``, ``-``
and ``*``, but of vectors alone. Nothing is fused or reordered but by :func:`multiply_add`.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

#: Numbers in a vector: float32 that fill a register of AVX-512, or else one of AVX2, where sixteen would need
#: twice the registers that there are.
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
#: Whether multiply_add surely rounds but once.
FUSED = bool(binding.get_host_cpu_features().get("fma"))
#: Vectors in a block.
ORDER = 8


class Vector(types.Type):
    """Type of vectors of ``LANES`` numbers.

    Parameters
    ----------
    element : numba type
        float32, float64, uint32 or uint64.
    """

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """How LLVM holds a vector."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _as_llvm(vector))


FLOATS, DOUBLES = Vector(types.float32), Vector(types.float64)
WORDS, LONG_WORDS = Vector(types.uint32), Vector(types.uint64)
_INDEX = ir.IntType(64)
_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint16: ir.IntType(16),
    types.uint32: ir.IntType(32),
    types.uint64: ir.IntType(64),
}


def _as_llvm(vector: Vector) -> ir.VectorType:
    return ir.VectorType(_ELEMENTS[vector.element], LANES)


def _block(vector: Vector) -> Any:
    return types.UniTuple(vector, ORDER)


def _of(operand: Any) -> Any:  # the type of a vector, or of a block's vectors
    return operand.dtype if isinstance(operand, types.UniTuple) else operand


def _is_real(operand: Any) -> bool:
    return _of(operand) in (FLOATS, DOUBLES)


def _element_by_element(result: Vector, operands: tuple[Any, ...], make: Callable[..., Any]) -> Any:
    """Return what an intrinsic has to: its signature, and what generates code for vectors or for blocks."""
    blocks = isinstance(operands[0], types.UniTuple)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not blocks:
            return make(builder, *arguments)
        columns = zip(*(cgutils.unpack_tuple(builder, argument) for argument in arguments), strict=True)
        vectors = [make(builder, *column) for column in columns]
        return context.make_tuple(builder, signature.return_type, vectors)

    return (_block(result) if blocks else result)(*operands), generate


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    """Call LLVM's function of this name for vectors of the arguments' type."""
    kind = arguments[0].type
    suffix = f"v{LANES}" + {"float": "f32", "double": "f64"}.get(str(kind.element), str(kind.element))
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), arguments
    )


def _splat(builder: Any, number: Any, n_lanes: int = LANES) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, n_lanes), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), n_lanes), [0] * n_lanes)
    return builder.shuffle_vector(first, nothing, zeros)


def _data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    """Return where the elements of an array lie, or those that there is a pointer to."""
    if isinstance(array_type, types.CPointer):
        return array
    return context.make_array(array_type)(context, builder, array).data


def _places(context: Any, builder: Any, array_type: Any, array: Any, index: Any, stride: Any = None) -> Any:
    """Return pointers to vectors of a flat array: to the one at an index, or to a block's."""
    data = _data(context, builder, array_type, array)
    kind = _as_llvm(Vector(array_type.dtype)).as_pointer()
    steps = [_INDEX(0)] if stride is None else [builder.mul(stride, _INDEX(o)) for o in range(ORDER)]
    return [builder.bitcast(builder.gep(data, [builder.add(index, step)]), kind) for step in steps]


@intrinsic
def align_stack(typing):
    # For kernels with more vectors than registers: what does not fit would as likely as not straddle cache
    # lines.
    def generate(context, builder, signature, arguments):
        builder.function.attributes.alignstack = 64
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def pointer(typing, array, index):  # to an element of a contiguous array, counted as they lie in memory
    # References to arrays are counted, by an instruction that no other core may interfere with and for every
    # array of a tuple, whenever a function is entered; a pointer is a number, and keeps nothing alive.
    def generate(context, builder, signature, arguments):
        return builder.gep(_data(context, builder, signature.args[0], arguments[0]), [arguments[1]])

    return types.CPointer(array.dtype)(array, types.uint64), generate


# -- from memory and back -------------------------------------------------------------------------


@intrinsic
def load(typing, array, index):  # array[index : index + LANES]
    def generate(context, builder, signature, arguments):
        (place,) = _places(context, builder, signature.args[0], *arguments)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.uint64), generate


@intrinsic
def load_column(typing, array, index, stride):  # element i of the vector is array[index + i * stride]
    def generate(context, builder, signature, arguments):
        rows, index, stride = arguments
        data = _data(context, builder, array, rows)
        vector = ir.Constant(_as_llvm(Vector(array.dtype)), ir.Undefined)
        for i in range(LANES):
            place = builder.gep(data, [builder.add(index, builder.mul(stride, _INDEX(i)))])
            vector = builder.insert_element(vector, builder.load(place), ir.IntType(32)(i))
        return vector

    return Vector(array.dtype)(array, types.uint64, types.uint64), generate


@intrinsic
def load_block(typing, array, index, stride):  # vector o of the block from index + o * stride on
    def generate(context, builder, signature, arguments):
        places = _places(context, builder, signature.args[0], *arguments)
        vectors = [builder.load(place, align=array.dtype.bitwidth // 8) for place in places]
        return context.make_tuple(builder, signature.return_type, vectors)

    return _block(Vector(array.dtype))(array, types.uint64, types.uint64), generate


@intrinsic
def store(typing, array, index, vector):  # the reverse of load
    def generate(context, builder, signature, arguments):
        (place,) = _places(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.uint64, vector), generate


@intrinsic
def store_block(typing, array, index, stride, block):  # the reverse of load_block
    def generate(context, builder, signature, arguments):
        places = _places(context, builder, signature.args[0], *arguments[:3])
        for place, vector in zip(places, cgutils.unpack_tuple(builder, arguments[3]), strict=True):
            builder.store(vector, place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64, block), generate


@intrinsic
def splat(typing, number):  # a vector of equal numbers
    return Vector(number)(number), lambda context, builder, signature, arguments: _splat(builder, *arguments)


@intrinsic
def splat_block(typing, array, index):  # vector o of the block is LANES times array[index + o]
    def generate(context, builder, signature, arguments):
        data = _data(context, builder, signature.args[0], arguments[0])
        places = [builder.gep(data, [builder.add(arguments[1], _INDEX(o))]) for o in range(ORDER)]
        vectors = [_splat(builder, builder.load(place)) for place in places]
        return context.make_tuple(builder, signature.return_type, vectors)

    return _block(Vector(array.dtype))(array, types.uint64), generate


@intrinsic
def block_of(typing, vector):  # eight times the same vector
    def generate(context, builder, signature, arguments):
        return context.make_tuple(builder, signature.return_type, list(arguments) * ORDER)

    return _block(vector)(vector), generate


@intrinsic
def add_pair(typing, array, index, others, other_index):  # array[index : index + 2] += others[... : ... + 2]
    def generate(context, builder, signature, arguments):
        def place(number):
            data = _data(context, builder, signature.args[number], arguments[number])
            pair = ir.VectorType(_ELEMENTS[array.dtype], 2)
            return builder.bitcast(builder.gep(data, [arguments[number + 1]]), pair.as_pointer())

        align = array.dtype.bitwidth // 8
        pairs = [builder.load(place(number), align=align) for number in (0, 2)]
        builder.store(builder.fadd(*pairs), place(0), align=align)
        return context.get_dummy_value()

    return types.void(array, types.uint64, others, types.uint64), generate


# -- arithmetic -----------------------------------------------------------------------------------


@intrinsic
def add(typing, a, b):  # a + b, also of blocks
    return _element_by_element(_of(a), (a, b), lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def subtract(typing, a, b):  # words a - b, also of blocks
    return _element_by_element(WORDS, (a, b), lambda builder, a, b: builder.sub(a, b))


def _operator(symbol: Callable[..., Any], opcode: str) -> None:
    @intrinsic
    def operation(typing, a, b):
        name = f"f{opcode}" if _is_real(a) else opcode
        return _element_by_element(a, (a, b), lambda builder, a, b: getattr(builder, name)(a, b))

    @overload(symbol, inline="always")
    def overloaded(a, b):
        return (lambda a, b: operation(a, b)) if isinstance(a, Vector) and a == b else None


_operator(operator.add, "add")
_operator(operator.sub, "sub")
_operator(operator.mul, "mul")


@intrinsic
def multiply_add(typing, a, b, c):  # a * b + c; of reals fused where the machine can, of words it wraps
    def make(builder, a, b, c):
        return _call(builder, "fmuladd", a, b, c) if is_real else builder.add(builder.mul(a, b), c)

    is_real = _is_real(c)
    return _element_by_element(_of(c), (a, b, c), make)


@intrinsic
def add_products(typing, one, other, array, index, stride, coefficients, j, distance):
    # Of two blocks vector o gets array[index + o * stride : ... + LANES] added, times coefficients[j + o]
    # and times coefficients[j + distance + o]. A vector is loaded when it is needed, for registers are few.
    def generate(context, builder, signature, arguments):
        one, other, vectors, index, stride, factors, j, distance = arguments
        data = _data(context, builder, signature.args[5], factors)
        places = _places(context, builder, signature.args[2], vectors, index, stride)
        sums = [cgutils.unpack_tuple(builder, block) for block in (one, other)]
        for o, place in enumerate(places):
            x = builder.load(place, align=array.dtype.bitwidth // 8)
            for vectors, begin in zip(sums, (j, builder.add(j, distance)), strict=True):
                factor = builder.load(builder.gep(data, [builder.add(begin, _INDEX(o))]))
                vectors[o] = _call(builder, "fmuladd", _splat(builder, factor), x, vectors[o])
        blocks = [context.make_tuple(builder, signature.args[0], vectors) for vectors in sums]
        return context.make_tuple(builder, signature.return_type, blocks)

    numbers = (types.uint64, types.uint64, coefficients, types.uint64, types.uint64)
    return types.UniTuple(one, 2)(one, other, array, *numbers), generate


@intrinsic
def least(typing, words, mask):  # of a block's vectors, but for the bits that are not in the mask
    # Processors compare integers beside their additions, reals instead of them.
    def generate(context, builder, signature, arguments):
        block, mask = arguments
        vectors = [builder.and_(vector, mask) for vector in cgutils.unpack_tuple(builder, block)]
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [builder.select(builder.icmp_unsigned("<", a, b), a, b) for a, b in pairs]
        return vectors[0]

    return WORDS(words, mask), generate


@intrinsic
def floor(typing, a):  # the largest whole number that is not above
    return _element_by_element(_of(a), (a,), lambda builder, a: _call(builder, "floor", a))


@intrinsic
def lesser(typing, a, b):  # of NaN and b, b
    def make(builder, a, b):
        compare = builder.fcmp_ordered if is_real else builder.icmp_unsigned
        return builder.select(compare("<", a, b), a, b)

    is_real = _is_real(a)
    return _element_by_element(_of(a), (a, b), make)


@intrinsic
def larger_magnitude(typing, a, b):  # |b| if that is larger than a, or either is NaN; of float64
    def make(builder, a, b):
        magnitude = _call(builder, "fabs", b)
        return builder.select(builder.fcmp_unordered(">", magnitude, a), magnitude, a)

    return _element_by_element(DOUBLES, (a, b), make)


# -- cells ----------------------------------------------------------------------------------------


@intrinsic
def bits(typing, a):  # those of float32, as words
    return _element_by_element(WORDS, (a,), lambda builder, a: builder.bitcast(a, _as_llvm(WORDS)))


@intrinsic
def reals(typing, words):  # float32 of these bits
    return _element_by_element(FLOATS, (words,), lambda builder, a: builder.bitcast(a, _as_llvm(FLOATS)))


@intrinsic
def shift_right(typing, words, n_bits):  # words >> n_bits
    return _element_by_element(
        WORDS, (words, n_bits), lambda builder, words, n_bits: builder.lshr(words, n_bits)
    )


@intrinsic
def masked(typing, a, b):  # the bits of words a that are in b too
    return _element_by_element(WORDS, (a, b), lambda builder, a, b: builder.and_(a, b))


@intrinsic
def as_words(typing, a):  # whole numbers of float32 below 2^31, without what is behind the point
    return _element_by_element(WORDS, (a,), lambda builder, a: builder.fptosi(a, _as_llvm(WORDS)))


@intrinsic
def widened(typing, a):  # float64
    def make(builder, a):
        return a if _of(operand) == DOUBLES else builder.fpext(a, _as_llvm(DOUBLES))

    operand = a
    return _element_by_element(DOUBLES, (a,), make)


@intrinsic
def narrowed(typing, a):  # float32 of float64
    return _element_by_element(FLOATS, (a,), lambda builder, a: builder.fptrunc(a, _as_llvm(FLOATS)))


@intrinsic
def as_long_words(typing, a):  # whole numbers, negative ones too, as they count in arithmetic that wraps
    return _element_by_element(LONG_WORDS, (a,), lambda builder, a: builder.fptosi(a, _as_llvm(LONG_WORDS)))


@intrinsic
def store_buckets(typing, codes, index, joined, n_buckets):  # of joined cells, as join.to_bucket does
    def generate(context, builder, signature, arguments):
        codes_, index, joined, n_buckets = arguments
        half = ir.Constant(joined.type, [32] * LANES)
        buckets = builder.mul(builder.lshr(joined, half), _splat(builder, n_buckets))
        narrow = ir.VectorType(_ELEMENTS[codes.dtype], LANES)
        (place,) = _places(context, builder, signature.args[0], codes_, index)
        narrowed = builder.trunc(builder.lshr(buckets, half), narrow)
        builder.store(narrowed, place, align=codes.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(codes, types.uint64, joined, types.uint64), generate


@intrinsic
def store_buckets_of_high(typing, codes, index, stride, high, n_buckets):
    # Of a block, like store_block; of joined cells it has the high halves, as words. Of their products, which
    # take 64 bits, those of words in even places are made apart from those in odd places. There must be less
    # than 2^32 buckets: of so many all codes are in doubt (fixed_points.py), and made again.
    def generate(context, builder, signature, arguments):
        codes_, index, stride, high, n_buckets = arguments
        places = _places(context, builder, signature.args[0], codes_, index, stride)
        pairs = ir.VectorType(ir.IntType(64), LANES // 2)
        half, low = ir.Constant(pairs, [32] * (LANES // 2)), ir.Constant(pairs, [2**32 - 1] * (LANES // 2))
        n_buckets = _splat(builder, builder.and_(n_buckets, _INDEX(2**32 - 1)), LANES // 2)
        narrow = ir.VectorType(_ELEMENTS[codes.dtype], LANES)
        for place, words in zip(places, cgutils.unpack_tuple(builder, high), strict=True):
            words = builder.bitcast(words, pairs)
            even = builder.lshr(builder.mul(builder.and_(words, low), n_buckets), half)
            odd = builder.and_(builder.mul(builder.lshr(words, half), n_buckets), builder.not_(low))
            buckets = builder.bitcast(builder.or_(even, odd), _as_llvm(WORDS))
            if codes.dtype != types.uint32:
                buckets = builder.trunc(buckets, narrow)
            builder.store(buckets, place, align=codes.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(codes, types.uint64, types.uint64, high, types.uint64), generate


@intrinsic
def shift_in_signs(typing, words, floats):  # 2 * words, plus 1 where the sign bit of a float32 is set
    def make(builder, words, floats):
        bits = builder.bitcast(floats, words.type)
        return _call(builder, "fshl", words, bits, ir.Constant(words.type, [1] * LANES))

    return _element_by_element(WORDS, (words, floats), make)


@intrinsic
def opposite_bits(typing, words, mask):  # ~words & mask
    return _element_by_element(
        WORDS, (words, mask), lambda builder, words, mask: builder.and_(builder.not_(words), mask)
    )


@intrinsic
def lanes_not_above(typing, a, b):  # uint64: bit i is 1 unless a > b in lane i, in every vector of a block
    def generate(context, builder, signature, arguments):
        compare = builder.fcmp_unordered if _is_real(a) else builder.icmp_unsigned
        columns = [arguments]
        if isinstance(a, types.UniTuple):
            columns = list(zip(*(cgutils.unpack_tuple(builder, block) for block in arguments), strict=True))
        mask = functools.reduce(builder.or_, [compare("<=", *column) for column in columns])
        return builder.zext(builder.bitcast(mask, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(a, b), generate


@intrinsic
def first_lane(typing, lanes):  # int64: the place of the lowest bit that is 1, of lanes_not_above
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(lanes), generate
