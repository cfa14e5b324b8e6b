"""The loop of `runtime`, compiled by Numba: one pass over a program's instructions. Imported only where Numba is there.

What the arrays hold is explained in `runtime.Code`. Numba finds the types itself, so functions have none: that is why
mypy is told to pass over each `def`. Most instructions take a tenth of a microsecond, as long as Numba needs to count
the references to the arrays of a call or to a slice; so what is done often is put in its place without a call, and has
no slices but places in `memory`, unsigned, as a signed index is first compared with zero.
"""

import math

import numba
import numpy as np

from dass_jax.deploy.sparse import AVG_POOL, FUNCTIONS, LINEAR, MAX_POOL, MEAN, RESIZE

RELU, RELU6, SIGMOID = (FUNCTIONS.index(name) for name in ("relu", "relu6", "sigmoid"))
_FREE = {"contract", "nsz", "arcp"}
_fast = numba.njit(cache=True, fastmath=_FREE, boundscheck=False, error_model="numpy")
_inline = numba.njit(inline="always", fastmath=_FREE, boundscheck=False, error_model="numpy")


@_fast
def run(steps, biases, terms, term_weights, taps, tap_weights, memory, scratch):  # type: ignore[no-untyped-def]
    """Carries out all instructions in `memory`; `scratch` has the size of the largest plane that is computed and of
    the longest row that is read."""
    for number in range(len(steps)):
        kind, option, place = steps[number, 0], steps[number, 1], steps[number, 2]
        height, width = steps[number, 3], steps[number, 4]
        first, end, tap, last_tap = steps[number, 5], steps[number, 6], steps[number, 7], steps[number, 8]
        size = height * width
        if kind == LINEAR:
            first += _begin(memory, place, size, biases[number], terms, term_weights, first, end)
            _whole(memory, place, size, terms, term_weights, first, end)
            for t in range(tap, last_tap):
                _shifted(memory, place, width, taps, tap_weights, t)
            _activate(memory, place, size, option)
        elif kind == AVG_POOL and option == 1 and min(height, width) > 1:
            _smooth(memory, place, taps[tap, 0], height, width, scratch)
        elif kind in (MAX_POOL, AVG_POOL):
            _pool(memory[place : place + size], height, width, kind, option, taps[tap], memory, scratch)
        elif kind == MEAN:
            x, total = _source(taps[tap], memory), np.float32(0)
            for p in range(len(x)):
                total += x[p]
            memory[place] = total / np.float32(len(x))
        elif kind == RESIZE:
            _resize(memory[place : place + size], height, width, taps[tap], memory)
        else:
            a, b = _source(taps[tap], memory), _source(taps[tap + 1], memory)
            for p in range(size):
                memory[place + p] = a[p if len(a) > 1 else 0] * b[p if len(b) > 1 else 0]


@_fast
def _source(term, memory):  # type: ignore[no-untyped-def]
    return memory[term[0] : term[0] + term[1] * term[2]]


@_fast
def _above(x, low):  # type: ignore[no-untyped-def]
    return x if x > low else low


@_inline
def _begin(memory, place, size, bias, terms, weights, t, end):  # type: ignore[no-untyped-def]
    """Writes the bias and the first one to four unshifted planes, so that those left are a multiple of four; returns
    how many it took."""
    y, n, some = np.uintp(place), np.uintp(size), (end - t - 1) % 4 + 1 if end > t else 0
    if some == 0:
        for p in range(n):
            memory[y + p] = bias
        return some
    a, aw, al = np.uintp(terms[t]), weights[t, 0], weights[t, 1]
    if some == 1:
        for p in range(n):
            memory[y + p] = bias + aw * _above(memory[a + p], al)
        return some
    b, bw, bl = np.uintp(terms[t + 1]), weights[t + 1, 0], weights[t + 1, 1]
    if some == 2:
        for p in range(n):
            memory[y + p] = bias + aw * _above(memory[a + p], al) + bw * _above(memory[b + p], bl)
        return some
    c, cw, cl = np.uintp(terms[t + 2]), weights[t + 2, 0], weights[t + 2, 1]
    if some == 3:
        for p in range(n):
            one = bias + aw * _above(memory[a + p], al) + bw * _above(memory[b + p], bl)
            memory[y + p] = one + cw * _above(memory[c + p], cl)
        return some
    d, dw, dl = np.uintp(terms[t + 3]), weights[t + 3, 0], weights[t + 3, 1]
    for p in range(n):
        one = aw * _above(memory[a + p], al) + bw * _above(memory[b + p], bl)
        other = cw * _above(memory[c + p], cl) + dw * _above(memory[d + p], dl)
        memory[y + p] = bias + one + other
    return some


@_inline
def _whole(memory, place, size, terms, weights, t, end):  # type: ignore[no-untyped-def]
    """Adds a multiple of four unshifted planes."""
    y, n = np.uintp(place), np.uintp(size)
    while t < end:
        a, aw, al = np.uintp(terms[t]), weights[t, 0], weights[t, 1]
        b, bw, bl = np.uintp(terms[t + 1]), weights[t + 1, 0], weights[t + 1, 1]
        c, cw, cl = np.uintp(terms[t + 2]), weights[t + 2, 0], weights[t + 2, 1]
        d, dw, dl = np.uintp(terms[t + 3]), weights[t + 3, 0], weights[t + 3, 1]
        if t + 4 == end:
            for p in range(n):
                one = aw * _above(memory[a + p], al) + bw * _above(memory[b + p], bl)
                other = cw * _above(memory[c + p], cl) + dw * _above(memory[d + p], dl)
                memory[y + p] += one + other
            return
        e, ew, el = np.uintp(terms[t + 4]), weights[t + 4, 0], weights[t + 4, 1]
        f, fw, fl = np.uintp(terms[t + 5]), weights[t + 5, 0], weights[t + 5, 1]
        g, gw, gl = np.uintp(terms[t + 6]), weights[t + 6, 0], weights[t + 6, 1]
        h, hw, hl = np.uintp(terms[t + 7]), weights[t + 7, 0], weights[t + 7, 1]
        for p in range(n):
            one = aw * _above(memory[a + p], al) + bw * _above(memory[b + p], bl)
            other = cw * _above(memory[c + p], cl) + dw * _above(memory[d + p], dl)
            third = ew * _above(memory[e + p], el) + fw * _above(memory[f + p], fl)
            last = gw * _above(memory[g + p], gl) + hw * _above(memory[h + p], hl)
            memory[y + p] += one + other + (third + last)
        t += 8


@_inline
def _shifted(memory, place, width, taps, weights, t):  # type: ignore[no-untyped-def]
    """Adds the pixels of a plane that a tap meets.

    At stride 1 in a plane as wide as y a shift is one of the flat array, but for the columns that it carries from one
    row into the next: a mask has zeros there. Rows of 8 pixels would be 8 short loops.
    """
    source, weight, low = taps[t, 0] + taps[t, 4], weights[t, 0], weights[t, 1]
    source_width, stride, mask = taps[t, 2], taps[t, 3], taps[t, 9]
    top, bottom, left, right = taps[t, 5], taps[t, 6], taps[t, 7], taps[t, 8]
    if mask >= 0:
        y, x, m = np.uintp(place + top * width), np.uintp(source + top * width), np.uintp(mask)
        for p in range(np.uintp((bottom - top) * width)):
            memory[y + p] += weight * memory[m + p] * _above(memory[x + p], low)
    else:
        step, n = np.uintp(stride), np.uintp(right - left)
        for row in range(top, bottom):
            y, x = np.uintp(place + row * width + left), np.uintp(source + row * stride * source_width + left * stride)
            for p in range(n):
                memory[y + p] += weight * _above(memory[x + p * step], low)


@_inline
def _activate(memory, place, size, option):  # type: ignore[no-untyped-def]
    y, n = np.uintp(place), np.uintp(size)
    if option == RELU:
        for p in range(n):
            memory[y + p] = max(memory[y + p], np.float32(0))
    elif option == RELU6:
        for p in range(n):
            memory[y + p] = min(max(memory[y + p], np.float32(0)), np.float32(6))
    elif option == SIGMOID:
        for p in range(n):
            memory[y + p] = np.float32(1) / (np.float32(1) + math.exp(-memory[y + p]))


@_fast
def _smooth(memory, place, source, height, width, scratch):  # type: ignore[no-untyped-def]
    """An average pool at stride 1, at least 2×2: each direction is one pass over the flat plane, then its border is
    mended."""
    one, w, size = np.uintp(1), np.uintp(width), np.uintp(height * width)
    y, x, last = np.uintp(place), np.uintp(source), np.uintp(height * width - width)
    ninth, more = np.float32(1 / 9), np.float32(1.5)
    for p in range(w):  # two rows are seen instead of three: their sum counts for as much
        scratch[p] = more * (memory[x + p] + memory[x + w + p])
        scratch[last + p] = more * (memory[x + last - w + p] + memory[x + last + p])
    for p in range(w, last):
        scratch[p] = memory[x + p - w] + memory[x + p] + memory[x + p + w]
    for p in range(one, size - one):
        memory[y + p] = ninth * (scratch[p - one] + scratch[p] + scratch[p + one])
    for row in range(height):
        p = np.uintp(row * width)
        memory[y + p] = more * ninth * (scratch[p] + scratch[p + one])
        p += w - one
        memory[y + p] = more * ninth * (scratch[p - one] + scratch[p])


@_fast
def _resize(y, height, width, term, memory):  # type: ignore[no-untyped-def]
    """Bilinear: between the four pixels around each place, whose edges repeat."""
    rows, columns, x = term[1], term[2], _source(term, memory)
    for row in range(height):
        place = min(max((row + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        top = int(place)
        low, share = min(top + 1, rows - 1) * columns, np.float32(place - top)
        top *= columns
        for column in range(width):
            place = min(max((column + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            left = int(place)
            right, part = min(left + 1, columns - 1), np.float32(place - left)
            above = x[top + left] + part * (x[top + right] - x[top + left])
            below = x[low + left] + part * (x[low + right] - x[low + left])
            y[row * width + column] = above + share * (below - above)


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
        else:
            for j in range(1, width - 1):
                out[j] = share * (line[j * stride - 1] + line[j * stride] + line[j * stride + 1])
        for j in (0, width - 1):  # where the window may leave the plane
            left, right = max(j * stride - 1, 0), min(j * stride + 2, columns)
            found = line[left]
            for q in range(left + 1, right):
                found = max(found, line[q]) if kind == MAX_POOL else found + line[q]
            out[j] = found if kind == MAX_POOL else found / np.float32((bottom - top) * (right - left))
