// What the core is made of, what it is asked for, and what it says of an instance.
#pragma once

#include <cstdint>

#include "affine.hpp"
#include "structure.hpp"

namespace conelayers {

// How the core leaves an instance. OPEN is for others to settle: no verdict, rather than a poor one.
enum class Outcome : int32_t { SOLVED = 0, OPEN = 1, PRIMAL_INFEASIBLE = 2, STOPPED = 3 };

// What a derivative's system was, bit by bit.
enum Flags : int32_t {
    SINGULAR = 1,       // J may be singular: a rank test has to tell
    INACCURATE = 2,     // the system was not solved to 1e−10
    NOT_A_SOLUTION = 4,  // the point that was given is none
    AT_KINK = 8          // rounding may have decided which element was taken
};

enum class Selection : int32_t { DEFAULT = 0, LOW = 1, HIGH = 2, MID = 3 };

// What the core is made of: the structure, θ ↦ (P, q, A, b), and (x, y) ↦ outputs.
struct Model {
    Structure structure;
    AffineMap data;     // values of P (by columns), q, A (by rows) and b, one after the other
    AffineMap outputs;  // of sources 0 (x) and 1 (y)
};

// A batch in the caller's memory, arrays (B, ·) one instance after the other; null where something is not asked for.
struct Solutions {
    double *x, *y, *s, *outputs;
    double* errors;    // (B, 3): the rows', the columns' and the gap's
    int32_t* places;   // (B, 2): the row and the column where the first two are
    int32_t* outcome;  // (B,)
};

}  // namespace conelayers
