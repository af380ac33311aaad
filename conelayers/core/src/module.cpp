// The Python module: arrays come in, are checked for their sizes, and the core runs without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "core.hpp"

#ifndef CORE_MODULE
#define CORE_MODULE _core
#endif

namespace nb = nanobind;
using conelayers::AffineMap;
using conelayers::Core;
using conelayers::Indices;
using conelayers::Kept;
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

AffineMap map_of(int size, Address constant, Address start, Address source, Address offset, Address coefficient) {
    AffineMap map;
    map.constant.assign(at<double>(constant), at<double>(constant) + size);
    map.start.assign(at<int32_t>(start), at<int32_t>(start) + size + 1);
    int terms = map.start[size];
    map.source.assign(at<int32_t>(source), at<int32_t>(source) + terms);
    map.offset.assign(at<int32_t>(offset), at<int32_t>(offset) + terms);
    map.coefficient.assign(at<double>(coefficient), at<double>(coefficient) + terms);
    map.find_runs();
    return map;
}

// From (number of values, constants, starts, sources, offsets, coefficients), all but the first as addresses.
AffineMap map_from(const nb::tuple& arrays) {
    auto address = [&](int k) { return nb::cast<Address>(arrays[k]); };
    return map_of(nb::cast<int>(arrays[0]), address(1), address(2), address(3), address(4), address(5));
}

Indices indices(Address address, int count) {
    return Indices(at<int32_t>(address), at<int32_t>(address) + count);
}

Core* make(
    int n, int m, int zero, Address P_start, Address P_row, Address A_start, Address A_row, Indices inert,
    nb::tuple data, nb::tuple outputs, std::vector<int64_t> sizes
) {
    Indices P_starts = indices(P_start, n + 1), A_starts = indices(A_start, n + 1);
    Structure structure(n, m, zero, P_starts, indices(P_row, P_starts[n]), A_starts, indices(A_row, A_starts[n]), inert);
    return new Core(Model{std::move(structure), map_from(data), map_from(outputs)}, std::move(sizes));
}

// An argument's memory: of an object with a buffer (NumPy's arrays), whose size is checked and which is held as long as
// this is; or at an address (torch's data_ptr()). nanobind's ndarray would take 5 µs an argument, NumPy's
// __array_interface__ one.
class Memory {
  public:
    Memory(nb::handle object, const char* name, int64_t bytes) {
        if (object.is_none()) return;
        if (PyLong_Check(object.ptr())) {
            data_ = at<void>(nb::cast<Address>(object));
            return;
        }
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
        held_ = true;
        data_ = view_.buf;
        size_ = view_.len;
        if (bytes >= 0 && size_ != bytes) wrong(name, bytes);
    }
    Memory(Memory&& other) noexcept : view_(other.view_), held_(other.held_), data_(other.data_), size_(other.size_) {
        other.held_ = false;
    }
    ~Memory() {
        if (held_) PyBuffer_Release(&view_);
    }
    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }
    int64_t size() const { return size_; }

    [[noreturn]] void wrong(const char* name, int64_t bytes) {
        std::string message = std::string(name) + ": got " + std::to_string(size_) + " bytes, expected " +
                              std::to_string(bytes) +
                              "; pass contiguous float64 arrays of the shape that the core documents";
        if (held_) PyBuffer_Release(&view_);
        held_ = false;
        throw nb::value_error(message.c_str());
    }

  private:
    Py_buffer view_{};
    bool held_ = false;
    void* data_ = nullptr;
    int64_t size_ = 0;
};

constexpr int64_t REAL = sizeof(double), INTEGER = sizeof(int32_t);

// A value for each parameter: an array (*shape), shared by the batch, or (B, *shape); a pair (address, numbers from one
// instance to the next); or None, for tangents.
class Values {
  public:
    Values(const nb::sequence& given, const Core& core, int64_t batch) {
        std::size_t count = core.sizes.size(), k = 0;
        if (nb::len(given) != count) throw nb::value_error("theta: expected one value for each parameter");
        memory_.reserve(count);
        for (nb::handle value : given) {
            int64_t size = core.sizes[k++];
            if (nb::isinstance<nb::tuple>(value)) {
                values_.push_back(at<const double>(nb::cast<Address>(value[0])));
                strides_.push_back(nb::cast<int64_t>(value[1]));
                continue;
            }
            memory_.emplace_back(value, "theta", -1);
            Memory& memory = memory_.back();
            bool shared = memory.size() == size * REAL;
            if (!value.is_none() && !shared && memory.size() != batch * size * REAL)
                memory.wrong("theta", batch * size * REAL);
            values_.push_back(memory.as<const double>());
            strides_.push_back(shared ? 0 : size);
        }
    }
    Parameters parameters() const { return {values_.data(), strides_.data()}; }

  private:
    std::vector<Memory> memory_;
    std::vector<const double*> values_;
    std::vector<int64_t> strides_;
};

// x (B, n), y (B, m) and s (B, m) of the caller.
class Points {
  public:
    Points(const nb::tuple& given, const Core& core, int64_t batch)
        : x_(given[0], "x", batch * core.n() * REAL),
          y_(given[1], "y", batch * core.m() * REAL),
          s_(given[2], "s", batch * core.m() * REAL) {}
    Solutions solutions() const {
        return {x_.as<double>(), y_.as<double>(), s_.as<double>(), nullptr, nullptr, nullptr, nullptr};
    }

  private:
    Memory x_, y_, s_;
};

// Ctrl-C: Python's handler runs, and raises.
bool interrupted() {
    nb::gil_scoped_acquire held;
    return PyErr_CheckSignals() != 0;
}

// numbers: room for x (B, n), y (B, m), s (B, m), outputs (B, ·) and errors (B, 3), one after the other; integers:
// places (B, 2), outcome (B,).
std::unique_ptr<Kept> solve(
    Core& core, int64_t batch, nb::sequence theta, nb::handle numbers, nb::handle integers,
    std::optional<nb::tuple> start, int threads, int lanes, double seconds, nb::handle stop, bool keep
) {
    int64_t n = core.n(), m = core.m(), outputs = core.model.outputs.size();
    Values values(theta, core, batch);
    Memory real(numbers, "numbers", batch * (n + 2 * m + outputs + 3) * REAL),
        whole(integers, "integers", 3 * batch * INTEGER);
    Memory flag(stop, "stop", INTEGER);
    std::optional<Points> points;
    if (start) points.emplace(*start, core, batch);
    Solutions out;
    out.x = real.as<double>();
    out.y = out.x + batch * n;
    out.s = out.y + batch * m;
    out.outputs = out.s + batch * m;
    out.errors = out.outputs + batch * outputs;
    out.places = whole.as<int32_t>();
    out.outcome = out.places + 2 * batch;
    Solutions warm = points ? points->solutions() : Solutions{};
    std::unique_ptr<Kept> kept;
    bool raised = false;
    {
        nb::gil_scoped_release released;
        Limits limits(seconds, flag.as<const int32_t>(), interrupted);
        kept = core.solve(batch, values.parameters(), out, points ? &warm : nullptr, threads, lanes, keep, limits);
        raised = limits.interrupted();
    }
    if (raised) throw nb::python_error();
    return kept;
}

// gradients: room for (B, size) of each parameter that is wanted, zeros, one after the other. With `kept` theta and
// point are not read.
void adjoint(
    Core& core, int64_t batch, nb::sequence theta, nb::tuple point, int selection, nb::handle cotangents,
    nb::handle gradients, std::optional<nb::sequence> wanted, nb::handle flags, int threads, int lanes, Kept* kept
) {
    Values values(theta, core, batch);
    Points points(point, core, batch);
    std::vector<int64_t> starts;
    int64_t total = 0;
    for (std::size_t k = 0; k < core.sizes.size(); k++) {
        bool taken = !wanted || nb::cast<bool>((*wanted)[k]);
        starts.push_back(taken ? total : -1);
        total += taken ? batch * core.sizes[k] : 0;
    }
    Memory given(cotangents, "cotangents", batch * core.model.outputs.size() * REAL),
        room(gradients, "gradients", total * REAL);
    Memory found(flags, "flags", batch * INTEGER);
    std::vector<double*> into;
    for (int64_t from : starts) into.push_back(from < 0 ? nullptr : room.as<double>() + from);
    nb::gil_scoped_release released;
    auto chosen = static_cast<Selection>(selection);
    if (kept != nullptr)
        return kept->adjoint(
            chosen, given.as<const double>(), into.data(), core.sizes.data(), found.as<int32_t>(), threads
        );
    core.adjoint(
        batch, values.parameters(), points.solutions(), chosen, given.as<const double>(), into.data(),
        core.sizes.data(), found.as<int32_t>(), threads, lanes
    );
}

void tangent(
    Core& core, int64_t batch, nb::sequence theta, nb::tuple point, int selection, nb::sequence dtheta,
    nb::handle doutputs, nb::handle flags, int threads, int lanes, Kept* kept
) {
    Values values(theta, core, batch), along(dtheta, core, batch);
    Points points(point, core, batch);
    Memory out(doutputs, "doutputs", batch * core.model.outputs.size() * REAL), found(flags, "flags", batch * INTEGER);
    nb::gil_scoped_release released;
    auto chosen = static_cast<Selection>(selection);
    if (kept != nullptr)
        return kept->tangent(chosen, along.parameters(), out.as<double>(), found.as<int32_t>(), threads);
    core.tangent(
        batch, values.parameters(), points.solutions(), chosen, along.parameters(), out.as<double>(),
        found.as<int32_t>(), threads, lanes
    );
}

void linear(
    Core& core, int64_t batch, nb::sequence theta, nb::tuple point, int selection, int right_hand_sides,
    bool transposed, nb::handle first, nb::handle second, nb::handle third, nb::handle flags, int threads, int lanes,
    Kept* kept
) {
    Values values(theta, core, batch);
    Points points(point, core, batch);
    int64_t count = batch * right_hand_sides;
    Memory columns(first, "first", count * core.n() * REAL), rows(second, "second", count * core.m() * REAL);
    Memory others(third, "third", count * core.m() * REAL), found(flags, "flags", batch * INTEGER);
    nb::gil_scoped_release released;
    auto chosen = static_cast<Selection>(selection);
    if (kept != nullptr)
        return kept->linear(
            chosen, right_hand_sides, transposed, columns.as<double>(), rows.as<double>(), others.as<double>(),
            found.as<int32_t>(), threads
        );
    core.linear(
        batch, values.parameters(), points.solutions(), chosen, right_hand_sides, transposed,
        columns.as<double>(), rows.as<double>(), others.as<double>(), found.as<int32_t>(), threads, lanes
    );
}

}  // namespace

NB_MODULE(CORE_MODULE, module) {
    nb::set_leak_warnings(false);  // layers that live until the interpreter ends are no leak
    module.attr("MOST_LANES") = CORE_MOST_LANES;
    nb::class_<Kept>(module, "Kept");
    nb::class_<Core>(module, "Core")
        .def(
            "solve", &solve, nb::arg("batch"), nb::arg("theta"), nb::arg("numbers"), nb::arg("integers"),
            nb::arg("start").none(), nb::arg("threads"), nb::arg("lanes"), nb::arg("seconds"), nb::arg("stop").none(),
            nb::arg("keep"), nb::keep_alive<0, 1>()
        )
        .def(
            "adjoint", &adjoint, nb::arg("batch"), nb::arg("theta"), nb::arg("point"), nb::arg("selection"),
            nb::arg("cotangents"), nb::arg("gradients"), nb::arg("wanted").none(), nb::arg("flags"), nb::arg("threads"),
            nb::arg("lanes"), nb::arg("kept").none()
        )
        .def(
            "tangent", &tangent, nb::arg("batch"), nb::arg("theta"), nb::arg("point"), nb::arg("selection"),
            nb::arg("dtheta"), nb::arg("doutputs"), nb::arg("flags"), nb::arg("threads"), nb::arg("lanes"),
            nb::arg("kept").none()
        )
        .def(
            "linear", &linear, nb::arg("batch"), nb::arg("theta"), nb::arg("point"), nb::arg("selection"),
            nb::arg("right_hand_sides"), nb::arg("transposed"), nb::arg("first"), nb::arg("second"), nb::arg("third"),
            nb::arg("flags"), nb::arg("threads"), nb::arg("lanes"), nb::arg("kept").none()
        )
        .def_prop_ro("workspace_bytes", [](Core& core) { return core.workspace_bytes(); })
        .def_prop_ro("work", [](const Core& core) { return core.model.structure.kkt.work(); })
        .def_prop_ro("entries", [](const Core& core) { return core.model.structure.kkt.entries(); })
        .def_prop_ro("kept_rows", [](const Core& core) { return core.model.structure.kept_rows; })
        .def_prop_ro("order", [](const Core& core) { return core.model.structure.kkt.order; })
        .def_prop_ro("constant_columns", [](const Core& core) { return core.model.structure.kkt.constant_columns; });
    module.def("make", &make, nb::rv_policy::take_ownership);
}
