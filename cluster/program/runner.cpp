// Runs an AOTInductor package from numpy arrays to numpy arrays.
//
// Two things PyTorch's own loader does not do: it lets other Python threads run while the
// model computes, so that a replica reads the next requests meanwhile; and it needs libtorch
// alone, not PyTorch's Python package, so that a replica starts in a third of the time.

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <memory>
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

// A result in memory of its own: inputs are only borrowed while the model runs.
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

class Runner {
 public:
  Runner(const std::string& package, int compute_threads)
      : loader_(package, "model", /*run_single_threaded=*/true), threads_(compute_threads) {}

  py::list run(const py::list& arrays) {
    std::vector<at::Tensor> inputs;
    for (const auto& item : arrays) inputs.push_back(borrow(item));
    std::vector<at::Tensor> outputs;
    {
      py::gil_scoped_release release;
      // OpenMP keeps the number of threads per calling thread.
      if (at::get_num_threads() != threads_) at::set_num_threads(threads_);
      c10::InferenceMode inference;
      for (auto& tensor : loader_.run(inputs)) outputs.push_back(own(tensor, inputs));
    }
    py::list answer;
    for (auto& tensor : outputs) answer.append(give(std::move(tensor)));
    return answer;
  }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
  int threads_;
};

}  // namespace

PYBIND11_MODULE(headrace_runner, module) {
  py::class_<Runner>(module, "Runner", py::module_local())
      .def(py::init<const std::string&, int>(), py::arg("package"), py::arg("compute_threads"))
      .def("run", &Runner::run, py::arg("arrays"));
}
