"""The loop of `runtime`, compiled by Numba: one pass over a program's instructions. Imported only where Numba is there.

Columns of `steps` and `terms` are explained in `runtime.Code`. Numba finds the types itself, so functions have none.
"""

import math

import numba
import numpy as np

from dass_jax.deploy.sparse import AVG_POOL, FUNCTIONS, LINEAR, MAX_POOL, MEAN

RELU, RELU6, SIGMOID = (FUNCTIONS.index(name) for name in ("relu", "relu6", "sigmoid"))
_fast = numba.njit(cache=True, fastmath={"contract", "nsz", "arcp"}, boundscheck=False, error_model="numpy")


@_fast
def run(steps, biases, terms, weights, memory, scratch):  # type: ignore[no-untyped-def]
    """Carries out all instructions in `memory`; `scratch` has the size of the largest plane that is computed and of
    the longest row that is read."""
    for number in range(len(steps)):
        kind, option, place, height, width, first, whole, end, where = steps[number]
        y = memory[place : place + height * width]
        if kind == LINEAR:
            # Loops, as assignments to slices ask first whether memory overlaps.
            if where >= 0:
                bias = memory[where : where + height * width]
                for p in range(len(y)):
                    y[p] = bias[p]
            else:
                for p in range(len(y)):
                    y[p] = biases[number]
            _whole(y, terms[first:whole], weights[first:whole], memory)
            for t in range(whole, end):
                _shifted(y, width, terms[t], weights[t], memory, scratch)
            _activate(y, option)
        elif kind == MEAN:
            x, total = _source(terms[first], memory), np.float32(0)
            for p in range(len(x)):
                total += x[p]
            y[0] = total / np.float32(len(x))
        elif kind in (MAX_POOL, AVG_POOL):
            _pool(y, height, width, kind, option, terms[first], memory, scratch)
        else:
            a, b = _source(terms[first], memory), _source(terms[first + 1], memory)
            for p in range(len(y)):
                y[p] = a[p if len(a) > 1 else 0] * b[p if len(b) > 1 else 0]


@_fast
def _source(term, memory):  # type: ignore[no-untyped-def]
    return memory[term[0] : term[0] + term[1] * term[2]]


@_fast
def _whole(y, terms, weights, memory):  # type: ignore[no-untyped-def]
    """Adds unshifted planes, four in one pass over y."""
    size, count, t = len(y), len(terms), 0
    while t + 4 <= count:
        a, b = memory[terms[t, 0] : terms[t, 0] + size], memory[terms[t + 1, 0] : terms[t + 1, 0] + size]
        c, d = memory[terms[t + 2, 0] : terms[t + 2, 0] + size], memory[terms[t + 3, 0] : terms[t + 3, 0] + size]
        u, v, w, z = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        for p in range(size):
            y[p] += u * a[p] + v * b[p] + w * c[p] + z * d[p]
        t += 4
    while t < count:
        a, u = memory[terms[t, 0] : terms[t, 0] + size], weights[t]
        for p in range(size):
            y[p] += u * a[p]
        t += 1


@_fast
def _shifted(y, width, term, weight, memory, scratch):  # type: ignore[no-untyped-def]
    """Adds the pixels of a plane that a tap meets.

    At stride 1 in a plane as wide as y a shift is one of the flat array, but for the columns that it carries from one
    row into the next: they are cleared in a copy, and the product is one pass. Rows of 8 pixels would be 8 short ones.
    """
    place, _, source_width, stride, offset, top, bottom, left, right = term
    if stride == 1 and source_width == width:
        size = (bottom - top) * width
        start = place + offset + top * width
        x, out, source = scratch[:size], y[top * width : top * width + size], memory[start : start + size]
        for p in range(size):
            x[p] = source[p]
        for column in range(left):
            for row in range(bottom - top):
                x[row * width + column] = 0
        for column in range(right, width):
            for row in range(bottom - top):
                x[row * width + column] = 0
        for p in range(size):
            out[p] += weight * x[p]
        return
    for row in range(top, bottom):
        start = place + offset + row * stride * source_width
        out = y[row * width + left : row * width + right]
        for p in range(right - left):
            out[p] += weight * memory[start + (left + p) * stride]


@_fast
def _activate(y, option):  # type: ignore[no-untyped-def]
    if option == RELU:
        for p in range(len(y)):
            y[p] = max(y[p], np.float32(0))
    elif option == RELU6:
        for p in range(len(y)):
            y[p] = min(max(y[p], np.float32(0)), np.float32(6))
    elif option == SIGMOID:
        for p in range(len(y)):
            y[p] = np.float32(1) / (np.float32(1) + math.exp(-y[p]))


@_fast
def _pool(y, height, width, kind, stride, term, memory, scratch):  # type: ignore[no-untyped-def]
    """3×3, over the pixels inside the plane: three rows into one, then three columns, in loops over whole rows."""
    rows, columns = term[1], term[2]
    x, line, one = _source(term, memory), scratch[:columns], np.float32(1)
    for row in range(height):
        top, bottom = max(row * stride - 1, 0), min(row * stride + 2, rows)
        source = x[top * columns : (top + 1) * columns]
        for p in range(columns):
            line[p] = source[p]
        for i in range(top + 1, bottom):
            source = x[i * columns : (i + 1) * columns]
            if kind == MAX_POOL:
                for p in range(columns):
                    line[p] = source[p] if source[p] > line[p] else line[p]
            else:
                for p in range(columns):
                    line[p] += source[p]
        out = y[row * width : (row + 1) * width]
        share = one / np.float32(3 * (bottom - top))
        if kind == MAX_POOL:
            for j in range(1, width - 1):
                a, b, c = line[j * stride - 1], line[j * stride], line[j * stride + 1]
                a = a if a > b else b
                out[j] = a if a > c else c
        elif stride == 1:  # apart, as only neighbours can be read as vectors
            for j in range(1, width - 1):
                out[j] = share * (line[j - 1] + line[j] + line[j + 1])
        else:
            for j in range(1, width - 1):
                out[j] = share * (line[j * stride - 1] + line[j * stride] + line[j * stride + 1])
        for j in (0, width - 1):  # where the window may leave the plane
            left, right = max(j * stride - 1, 0), min(j * stride + 2, columns)
            found = line[left]
            for q in range(left + 1, right):
                found = max(found, line[q]) if kind == MAX_POOL else found + line[q]
            out[j] = found if kind == MAX_POOL else found / np.float32((bottom - top) * (right - left))
