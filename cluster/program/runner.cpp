// Runs an AOTInductor package from numpy arrays to numpy arrays.
//
// Differences from PyTorch's own loader: other Python threads run while the model computes, so
// that a replica reads the next requests meanwhile; and it needs libtorch alone, not PyTorch's
// Python package, so that a replica starts in a third of the time.
//
// In a package that is one slice of a model, the operator headrace::all_reduce sums over the
// processes of all slices: see all_reduce.h.

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/library.h>

#include "all_reduce.h"

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

struct Datatype {
  at::ScalarType torch;
  char kind;
  int size;
};

constexpr Datatype kDatatypes[] = {
    {at::kBool, 'b', 1},   {at::kByte, 'u', 1},   {at::kUInt16, 'u', 2}, {at::kUInt32, 'u', 4},
    {at::kUInt64, 'u', 8}, {at::kChar, 'i', 1},   {at::kShort, 'i', 2},  {at::kInt, 'i', 4},
    {at::kLong, 'i', 8},   {at::kHalf, 'f', 2},   {at::kFloat, 'f', 4},  {at::kDouble, 'f', 8},
};

at::ScalarType torch_type(const py::dtype& dtype) {
  for (const auto& known : kDatatypes) {
    if (known.kind == dtype.kind() && known.size == dtype.itemsize()) return known.torch;
  }
  throw std::invalid_argument("input dtype " + std::string(py::str(dtype)) + " is not supported");
}

py::dtype numpy_type(at::ScalarType type) {
  for (const auto& known : kDatatypes) {
    if (known.torch == type) {
      return py::dtype(std::string(1, known.kind) + std::to_string(known.size));
    }
  }
  throw std::invalid_argument(std::string("output dtype ") + c10::toString(type) +
                              " is not supported");
}

at::Tensor borrow(const py::handle& item) {
  auto array = py::cast<py::array>(item);
  if (!(array.flags() & py::array::c_style)) {
    throw std::invalid_argument("inputs must be C-contiguous");
  }
  std::vector<int64_t> shape(array.shape(), array.shape() + array.ndim());
  return at::from_blob(const_cast<void*>(array.data()), shape,
                       at::TensorOptions().dtype(torch_type(array.dtype())));
}

// A copy of the result: inputs are only borrowed while the model runs.
at::Tensor own(const at::Tensor& output, const std::vector<at::Tensor>& inputs) {
  at::Tensor result = output.cpu().contiguous();
  for (const auto& input : inputs) {
    if (result.is_alias_of(input)) return result.clone();
  }
  return result;
}

// The array owns the tensor, so nothing is copied.
py::array give(at::Tensor tensor) {
  auto owner = std::make_unique<at::Tensor>(std::move(tensor));
  std::vector<py::ssize_t> shape(owner->sizes().begin(), owner->sizes().end());
  auto dtype = numpy_type(owner->scalar_type());
  void* data = owner->data_ptr();
  py::capsule base(owner.release(), [](void* held) { delete static_cast<at::Tensor*>(held); });
  return py::array(dtype, shape, data, base);
}

// A thread's current group. libtorch keeps one such pointer per thread for the whole process,
// while each artifact's copy of this file would have its own.
struct CurrentGroup : c10::DebugInfoBase {
  virtual at::Tensor all_reduce(const at::Tensor& x) = 0;
};

class Group : public CurrentGroup {
 public:
  explicit Group(headrace::SharedMemoryGroup* shared) : shared_(shared) {}

  at::Tensor all_reduce(const at::Tensor& x) override {
    const at::Tensor input = x.contiguous();
    at::Tensor output = at::empty_like(input);
    shared_->all_reduce(input.const_data_ptr(), output.mutable_data_ptr(),
                        static_cast<size_t>(input.numel()), element(input.scalar_type()));
    return output;
  }

  headrace::SharedMemoryGroup& shared() { return *shared_; }

 private:
  static headrace::Element element(at::ScalarType type) {
    switch (type) {
      case at::kFloat: return headrace::Element::kFloat;
      case at::kDouble: return headrace::Element::kDouble;
      case at::kHalf: return headrace::Element::kHalf;
      case at::kBFloat16: return headrace::Element::kBFloat16;
      default:
        throw std::invalid_argument(std::string("an all-reduce expects floating-point numbers, got ") +
                                    c10::toString(type));
    }
  }

  std::unique_ptr<headrace::SharedMemoryGroup> shared_;
};

constexpr auto kOperator = "headrace::all_reduce";
// A key that no tensor here has: it selects the kernel of cluster/program/collective.py.
constexpr auto kPython = c10::DispatchKey::PrivateUse1;

// Boxed, which compiles several seconds faster than a kernel with a C++ signature.
void all_reduce(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  auto* current = static_cast<CurrentGroup*>(
      c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::INFERENCE_CONTEXT));
  if (current != nullptr) {
    stack->back() = current->all_reduce(stack->back().toTensor());
  } else if (op.hasComputedKernelForDispatchKey(kPython)) {
    op.redispatchBoxed(c10::DispatchKeySet(kPython), stack);
  } else {
    throw std::runtime_error("this program is one slice of a model: load it with its group");
  }
}

// Not by TORCH_LIBRARY, which fails for a second definition in a process: another artifact's copy
// of this file, or Python, may have defined the operator before.
void register_all_reduce() {
  auto op = c10::Dispatcher::singleton().findSchema({kOperator, ""});
  if (op && op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return;
  // Never destroyed: the last programs of a process still use the registration.
  auto* library = new torch::Library(torch::Library::FRAGMENT, "headrace", std::nullopt, __FILE__,
                                     __LINE__);
  if (!op) library->def("all_reduce(Tensor x) -> Tensor", {at::Tag::pt2_compliant_tag});
  auto kernel = torch::CppFunction::makeFromBoxedFunction<&all_reduce>();
  library->impl("all_reduce", torch::dispatch(c10::DispatchKey::CPU, std::move(kernel)));
}

class Runner {
 public:
  Runner(const std::string& package, int compute_threads, std::shared_ptr<Group> group)
      : loader_(package, "model", /*run_single_threaded=*/true),
        threads_(compute_threads),
        group_(std::move(group)) {}

  py::list run(const py::list& arrays) {
    std::vector<at::Tensor> inputs;
    for (const auto& item : arrays) inputs.push_back(borrow(item));
    std::vector<at::Tensor> outputs;
    {
      py::gil_scoped_release release;
      // OpenMP keeps the number of threads per calling thread.
      if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
      c10::InferenceMode inference;
      std::optional<c10::DebugInfoGuard> current;
      if (group_) current.emplace(c10::DebugInfoKind::INFERENCE_CONTEXT, group_);
      for (auto& tensor : loader_.run(inputs)) outputs.push_back(own(tensor, inputs));
    }
    py::list answer;
    for (auto& tensor : outputs) answer.append(give(std::move(tensor)));
    return answer;
  }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
  int threads_;
  std::shared_ptr<Group> group_;
};

std::shared_ptr<Group> create_group(int size, size_t slot_bytes, double timeout_s) {
  return std::make_shared<Group>(
      headrace::SharedMemoryGroup::create(size, slot_bytes, timeout_s));
}

std::shared_ptr<Group> join_group(const std::string& address, int rank, double timeout_s) {
  return std::make_shared<Group>(headrace::SharedMemoryGroup::join(address, rank, timeout_s));
}

py::array reduced(Group& group, const py::array& array) {
  at::Tensor input = borrow(array), output;
  {
    py::gil_scoped_release release;
    output = group.all_reduce(input);
  }
  return give(std::move(output));
}

}  // namespace

PYBIND11_MODULE(headrace_runner, module) {
  register_all_reduce();
  py::class_<Group, std::shared_ptr<Group>>(module, "SharedMemoryGroup", py::module_local())
      .def_static("create", &create_group, py::arg("size"), py::arg("slot_bytes"),
                  py::arg("timeout_s"))
      .def_static("open", &join_group, py::arg("address"), py::arg("rank"), py::arg("timeout_s"))
      .def_property_readonly("address", [](Group& group) { return group.shared().address(); })
      .def_property_readonly("rank", [](Group& group) { return group.shared().rank(); })
      .def_property_readonly("size", [](Group& group) { return group.shared().size(); })
      .def("all_reduce", &reduced, py::arg("array"))
      .def("abort", [](Group& group) { group.shared().abort(); });
  py::class_<Runner>(module, "Runner", py::module_local())
      .def(py::init<const std::string&, int, std::shared_ptr<Group>>(), py::arg("package"),
           py::arg("compute_threads"), py::arg("group") = nullptr)
      .def("run", &Runner::run, py::arg("arrays"));
}
