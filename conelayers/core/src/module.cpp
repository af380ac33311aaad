// The Python module: arrays come in as addresses (integers), which cost nothing, where nanobind's ndarray takes 5 µs each.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "core.hpp"

#ifndef CORE_MODULE
#define CORE_MODULE _core
#endif

namespace nb = nanobind;
using conelayers::AffineMap;
using conelayers::Core;
using conelayers::Indices;
using conelayers::Limits;
using conelayers::Model;
using conelayers::Parameters;
using conelayers::Selection;
using conelayers::Solutions;
using conelayers::Structure;

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

// (number of values, constants, starts, sources, offsets, coefficients), all but the first as addresses.
using MapArrays = std::tuple<int, Address, Address, Address, Address, Address>;

AffineMap map_of(int size, Address constant, Address start, Address source, Address offset, Address coefficient) {
    AffineMap map;
    map.constant.assign(at<double>(constant), at<double>(constant) + size);
    map.start.assign(at<int32_t>(start), at<int32_t>(start) + size + 1);
    int terms = map.start[size];
    map.source.assign(at<int32_t>(source), at<int32_t>(source) + terms);
    map.offset.assign(at<int32_t>(offset), at<int32_t>(offset) + terms);
    map.coefficient.assign(at<double>(coefficient), at<double>(coefficient) + terms);
    return map;
}

AffineMap map_from(const nb::tuple& arrays) {
    auto address = [&](int k) { return nb::cast<Address>(arrays[k]); };
    return map_of(nb::cast<int>(arrays[0]), address(1), address(2), address(3), address(4), address(5));
}

Indices indices(Address address, int count) { return Indices(at<int32_t>(address), at<int32_t>(address) + count); }

Core* make(int n, int m, int zero, Address P_start, Address P_row, Address A_start, Address A_row, nb::tuple data, nb::tuple outputs) {
    Indices P_starts = indices(P_start, n + 1), A_starts = indices(A_start, n + 1);
    Structure structure(n, m, zero, P_starts, indices(P_row, P_starts[n]), A_starts, indices(A_row, A_starts[n]));
    return new Core(Model{std::move(structure), map_from(data), map_from(outputs)});
}

// Ctrl-C: Python's handler runs, and raises.
bool interrupted() {
    nb::gil_scoped_acquire held;
    return PyErr_CheckSignals() != 0;
}

Parameters parameters(Address values, Address strides) { return {at<const double* const>(values), at<const int64_t>(strides)}; }

Solutions points(Address x, Address y, Address s) { return {at<double>(x), at<double>(y), at<double>(s), nullptr, nullptr, nullptr, nullptr}; }

void solve(
    Core& core, int64_t batch, Address theta, Address strides, Address x, Address y, Address s, Address outputs, Address errors,
    Address places, Address outcome, Address warm_x, Address warm_y, Address warm_s, int threads, int lanes, double seconds, Address stop
) {
    Solutions out{at<double>(x),      at<double>(y),       at<double>(s),      at<double>(outputs),
                  at<double>(errors), at<int32_t>(places), at<int32_t>(outcome)};
    Solutions warm = points(warm_x, warm_y, warm_s);
    bool raised = false;
    {
        nb::gil_scoped_release released;
        Limits limits(seconds, at<const int32_t>(stop), interrupted);
        core.solve(batch, parameters(theta, strides), out, warm_x ? &warm : nullptr, threads, lanes, limits);
        raised = limits.interrupted();
    }
    if (raised) throw nb::python_error();
}

void adjoint(
    Core& core, int64_t batch, Address theta, Address strides, Address x, Address y, Address s, int selection, Address cotangents,
    Address gradients, Address sizes, Address flags, int threads, int lanes
) {
    nb::gil_scoped_release released;
    core.adjoint(
        batch, parameters(theta, strides), points(x, y, s), static_cast<Selection>(selection), at<const double>(cotangents),
        at<double* const>(gradients), at<const int64_t>(sizes), at<int32_t>(flags), threads, lanes
    );
}

void tangent(
    Core& core, int64_t batch, Address theta, Address strides, Address x, Address y, Address s, int selection, Address dtheta,
    Address dstrides, Address doutputs, Address flags, int threads, int lanes
) {
    nb::gil_scoped_release released;
    core.tangent(
        batch, parameters(theta, strides), points(x, y, s), static_cast<Selection>(selection), parameters(dtheta, dstrides),
        at<double>(doutputs), at<int32_t>(flags), threads, lanes
    );
}

void linear(
    Core& core, int64_t batch, Address theta, Address strides, Address x, Address y, Address s, int selection, int right_hand_sides,
    bool transposed, Address first, Address second, Address third, Address flags, int threads, int lanes
) {
    nb::gil_scoped_release released;
    core.linear(
        batch, parameters(theta, strides), points(x, y, s), static_cast<Selection>(selection), right_hand_sides, transposed,
        at<double>(first), at<double>(second), at<double>(third), at<int32_t>(flags), threads, lanes
    );
}

}  // namespace

NB_MODULE(CORE_MODULE, module) {
    module.attr("MOST_LANES") = CORE_MOST_LANES;
    nb::class_<Core>(module, "Core")
        .def("solve", &solve)
        .def("adjoint", &adjoint)
        .def("tangent", &tangent)
        .def("linear", &linear)
        .def_prop_ro("work", [](const Core& core) { return core.model.structure.kkt.work(); })
        .def_prop_ro("entries", [](const Core& core) { return core.model.structure.kkt.entries(); })
        .def_prop_ro("order", [](const Core& core) { return core.model.structure.kkt.order; })
        .def_prop_ro("constant_columns", [](const Core& core) { return core.model.structure.kkt.constant_columns; });
    module.def("make", &make, nb::rv_policy::take_ownership);
}
