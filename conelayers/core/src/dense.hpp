// Dense matrices of one instance, by rows, in tiles of sums that stay in registers.
//
// Every entry is a sum over its terms in their order, whatever the widest register: the bits do not depend on it.
// Matrices are followed by PADDING numbers, as tiles at the edge read on behind a row, to no effect.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "array.hpp"
#include "lanes.hpp"

namespace conelayers {

constexpr std::size_t PADDING = 16;  // numbers behind a matrix that a tile at its edge reads

// A HEIGHT × SPAN tile of Σ xᵣ zᵣᵀ, as many sums as there are registers for.
template <class V>
struct Tile {
#if defined(__AVX512F__)
    static constexpr int HEIGHT = 4, SPAN = 4;
#else
    static constexpr int HEIGHT = 4, SPAN = 2;
#endif
    // Of rows x (`width` apart) and of rows z from `left` on; the first `wanted` columns at least.
    static void products(int rows, const V* x, int width, const V* const* z, int left, V* sums, int wanted = SPAN) {
        (void)wanted;
        V sum[HEIGHT][SPAN] = {};
        for (int r = 0; r < rows; r++, x += width)
            for (int i = 0; i < HEIGHT; i++)
                for (int j = 0; j < SPAN; j++) sum[i][j] += x[i] * z[r][left + j];
        for (int i = 0; i < HEIGHT; i++)
            for (int j = 0; j < SPAN; j++) sums[i * SPAN + j] = sum[i][j];
    }
};

#if CORE_VECTORS
template <>
struct Tile<double> {
    static constexpr int WIDTH = sizeof(Neighbours) / sizeof(double), HEIGHT = 4, SPAN = 2 * WIDTH;

    static void products(
        int rows, const double* x, int width, const double* const* z, int left, double* sums, int wanted = SPAN
    ) {
        if (wanted <= WIDTH)
            registers<1>(rows, x, width, z, left, sums);
        else
            registers<2>(rows, x, width, z, left, sums);
    }

  private:
    template <int COUNT>
    static void registers(int rows, const double* x, int width, const double* const* z, int left, double* sums) {
        Neighbours sum[HEIGHT][COUNT] = {}, term[COUNT];
        for (int r = 0; r < rows; r++, x += width) {
            for (int j = 0; j < COUNT; j++) std::memcpy(&term[j], z[r] + left + j * WIDTH, sizeof term[j]);
            for (int i = 0; i < HEIGHT; i++)
                for (int j = 0; j < COUNT; j++) sum[i][j] += x[i] * term[j];
        }
        for (int i = 0; i < HEIGHT; i++) std::memcpy(sums + i * SPAN, sum[i], sizeof sum[i]);
    }
};
#endif

class DenseMatrix {
  public:
    int rows, columns;

    DenseMatrix(int rows_, int columns_, Pool<double>& pool)
        : rows(rows_), columns(columns_), values_(pool.take(static_cast<std::size_t>(rows_) * columns_ + PADDING)) {
        for (int i = 0; i < rows; i++) row_.push_back(values_ + static_cast<std::size_t>(i) * columns);
    }

    double* operator[](int i) { return row_[i]; }
    const double* operator[](int i) const { return row_[i]; }

    void clear() { std::memset(values_, 0, static_cast<std::size_t>(rows) * columns * sizeof(double)); }

    // The upper triangle of the first `height` × `span` entries after `pivots` pivots:
    // [M₁₁, M₁₂; ·, M₂₂] = [RᵀR, RᵀV; ·, S + VᵀV] becomes [R, V; ·, S]. False at a pivot that is no positive number, or
    // below PIVOT_FLOOR of the diagonal entry that it was.
    bool pivot(int height, int span, int pivots) {
        for (int i = 0; i < height; i += BLOCK) {
            int block = std::min(BLOCK, height - i), known = std::min(i, pivots);
            double floor[BLOCK];
            for (int a = 0; a < block; a++) floor[a] = PIVOT_FLOOR * row_[i + a][i + a];
            if (known > 0) subtract_products(known, row_.data(), i, block, i, span, row_.data() + i);
            for (int a = 0; a < block; a++) {
                double* target = row_[i + a];
                for (int b = 0; b < a && i + b < pivots; b++) {
                    const double* done = row_[i + b];
                    double factor = done[i + a];
                    for (int j = i + a; j < span; j++) target[j] -= factor * done[j];
                }
                if (i + a >= pivots) continue;
                double value = target[i + a];
                if (!(value > floor[a] && value < LARGEST_PIVOT)) return false;
                double reciprocal = 1.0 / std::sqrt(value);
                for (int j = i + a; j < span; j++) target[j] *= reciprocal;
            }
        }
        return true;
    }

    // The upper triangle becomes ZᵀZ for the columns of Z from `first` on.
    void products(const DenseMatrix& Z, int first) {
        clear();
        for (int i = 0; i < rows; i += BLOCK) {
            int block = std::min(BLOCK, rows - i);
            subtract_products(Z.rows, Z.row_.data(), first + i, block, i, columns, row_.data() + i, first);
            for (int a = 0; a < block; a++)
                for (int j = i; j < columns; j++) row_[i + a][j] = 0.0 - row_[i + a][j];
        }
    }

    // The lower triangle of the square from (first, first) to (last, last) from its upper one.
    void mirror(int first, int last) {
        for (int i = first; i < last; i++)
            for (int j = i + 1; j < last; j++) row_[j][i] = row_[i][j];
    }

    // Solves R z = z with the upper triangle in the rows first … last − 1.
    void solve_upper(int first, int last, double* z) const {
        for (int k = last - 1; k >= first; k--)
            z[k] = (z[k] - dot(last - k - 1, row_[k] + k + 1, z + k + 1)) / row_[k][k];
    }

  private:
    static constexpr int BLOCK = Tile<double>::HEIGHT;
    static constexpr double PIVOT_FLOOR = 1e-11, LARGEST_PIVOT = 1e300;
    double* values_;
    std::vector<double*> row_;

    // targets[a][j] −= Σₖ z[k][top + a]·z[k][j + shift] for `block` rows a and left ≤ j < span.
    static void subtract_products(
        int terms, double* const* z, int top, int block, int left, int span, double* const* targets, int shift = 0
    ) {
        constexpr int SPAN = Tile<double>::SPAN;
        double sums[BLOCK * SPAN];
        int width = terms > 1 ? static_cast<int>(z[1] - z[0]) : 0;
        for (; left < span; left += SPAN) {
            int count = std::min(SPAN, span - left);
            Tile<double>::products(terms, z[0] + top, width, z, left + shift, sums, count);
            for (int a = 0; a < block; a++)
                for (int j = 0; j < count; j++) targets[a][left + j] -= sums[a * SPAN + j];
        }
    }
};

}  // namespace conelayers
