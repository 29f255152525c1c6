// The C side of OpenSora.Torch: any ATen operator by name through libtorch's dispatcher, and the little that the dispatcher does not
// offer (tensor handles, autograd, generators, threads). Builds against libtorch 1.13 and 2.x.
//
// A tensor handle is a TensorImpl* that owns one reference. Functions that fail return -1 or null; opensora_error says why.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/api/include/torch/version.h>

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Tag : int32_t { None, TensorTag, Int, Double, Bool, IntList, TensorList, OptionalTensorList, DoubleList, BoolList, String, GeneratorTag, DeviceTag, Default };

// A boxed argument or result. Lists: `i` is a pointer, `length` its number of elements.
struct Value {
  int32_t tag;
  int32_t length;
  int64_t i;
  double d;
};

thread_local std::string last_error;

// A managed backward failed: `code`, below -1, is what it returned, and what the caller of the whole backward pass gets.
struct ManagedFailure : std::runtime_error {
  explicit ManagedFailure(int code) : std::runtime_error("the backward pass of a managed function failed"), code(code) {}
  int code;
};

template <typename R, typename F>
R guarded(R failed, F&& body) {
  try {
    return body();
  } catch (const ManagedFailure& e) {
    last_error = e.what();
    if constexpr (std::is_same_v<R, int>) return e.code;
  } catch (const c10::Error& e) {
    last_error = e.what_without_backtrace();
  } catch (const std::exception& e) {
    last_error = e.what();
  } catch (...) {
    last_error = "unknown error in libtorch";
  }
  return failed;
}

at::TensorImpl* release(at::Tensor tensor) { return tensor.defined() ? tensor.unsafeReleaseTensorImpl() : nullptr; }

// A second reference to the tensor behind a handle.
at::Tensor borrow(int64_t handle) {
  if (handle == 0) return at::Tensor();
  using Pointer = c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  return at::Tensor(Pointer::unsafe_reclaim_from_nonowning(reinterpret_cast<at::TensorImpl*>(handle)));
}

at::Tensor borrow(at::TensorImpl* handle) { return borrow(reinterpret_cast<int64_t>(handle)); }

std::vector<at::Tensor> borrow_all(at::TensorImpl** handles, int count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (int i = 0; i < count; ++i) tensors.push_back(borrow(handles[i]));
  return tensors;
}

c10::IValue unpack(const Value& v, const c10::Argument& argument) {
  switch (v.tag) {
    case None: return c10::IValue();
    case TensorTag: return v.i == 0 ? c10::IValue() : c10::IValue(borrow(v.i));
    case Int: return c10::IValue(v.i);
    case Double: return c10::IValue(v.d);
    case Bool: return c10::IValue(v.i != 0);
    case IntList: {
      c10::List<int64_t> list;
      list.reserve(v.length);
      for (int k = 0; k < v.length; ++k) list.push_back(reinterpret_cast<const int64_t*>(v.i)[k]);
      return c10::IValue(std::move(list));
    }
    case TensorList: {
      c10::List<at::Tensor> list;
      list.reserve(v.length);
      for (int k = 0; k < v.length; ++k) list.push_back(borrow(reinterpret_cast<const int64_t*>(v.i)[k]));
      return c10::IValue(std::move(list));
    }
    case OptionalTensorList: {
      c10::List<c10::optional<at::Tensor>> list;
      list.reserve(v.length);
      for (int k = 0; k < v.length; ++k) {
        auto handle = reinterpret_cast<const int64_t*>(v.i)[k];
        list.push_back(handle == 0 ? c10::optional<at::Tensor>() : c10::optional<at::Tensor>(borrow(handle)));
      }
      return c10::IValue(std::move(list));
    }
    case DoubleList: {
      c10::List<double> list;
      for (int k = 0; k < v.length; ++k) list.push_back(reinterpret_cast<const double*>(v.i)[k]);
      return c10::IValue(std::move(list));
    }
    case BoolList: {
      c10::List<bool> list;
      for (int k = 0; k < v.length; ++k) list.push_back(reinterpret_cast<const uint8_t*>(v.i)[k] != 0);
      return c10::IValue(std::move(list));
    }
    case String: return c10::IValue(std::string(reinterpret_cast<const char*>(v.i), v.length));
    case GeneratorTag: {
      if (v.i == 0) return c10::IValue();
      using Pointer = c10::intrusive_ptr<c10::GeneratorImpl>;
      return c10::IValue(at::Generator(Pointer::unsafe_reclaim_from_nonowning(reinterpret_cast<c10::GeneratorImpl*>(v.i))));
    }
    case DeviceTag: return c10::IValue(c10::Device(static_cast<c10::DeviceType>(v.i), static_cast<c10::DeviceIndex>(v.length)));
    case Default:
      TORCH_CHECK(argument.default_value().has_value(), "argument '", argument.name(), "' has no default");
      return *argument.default_value();
    default: TORCH_CHECK(false, "unknown tag ", v.tag);
  }
}

Value pack(c10::IValue&& value) {
  Value out{None, 0, 0, 0};
  if (value.isTensor()) {
    out.tag = TensorTag;
    out.i = reinterpret_cast<int64_t>(release(std::move(value).toTensor()));
  } else if (value.isInt()) {
    out.tag = Int;
    out.i = value.toInt();
  } else if (value.isDouble()) {
    out.tag = Double;
    out.d = value.toDouble();
  } else if (value.isBool()) {
    out.tag = Bool;
    out.i = value.toBool();
  } else if (value.isTensorList()) {
    auto list = value.toTensorVector();
    auto handles = new int64_t[list.size()];
    for (size_t k = 0; k < list.size(); ++k) handles[k] = reinterpret_cast<int64_t>(release(std::move(list[k])));
    out.tag = TensorList;
    out.length = static_cast<int32_t>(list.size());
    out.i = reinterpret_cast<int64_t>(handles);
  } else if (!value.isNone()) {
    TORCH_CHECK(false, "an operator returned a value of kind ", value.tagKind(), ", which this binding does not pass on");
  }
  return out;
}

}  // namespace

API const char* opensora_error() { return last_error.c_str(); }

API const char* opensora_version() { return TORCH_VERSION; }

// ---- operators ----

API void* opensora_operator(const char* name, const char* overload) {
  return guarded<void*>(nullptr, [&]() -> void* {
    auto found = c10::Dispatcher::singleton().findSchema({name, overload});
    TORCH_CHECK(found.has_value(), "this libtorch has no operator ", name, overload[0] ? "." : "", overload);
    return new c10::OperatorHandle(*found);
  });
}

// Calls an operator with positional arguments; those left out take their defaults. Returns the number of results.
API int opensora_call(void* op, const Value* arguments, int count, Value* results, int capacity) {
  return guarded(-1, [&]() {
    auto& handle = *static_cast<c10::OperatorHandle*>(op);
    auto& schema = handle.schema().arguments();
    TORCH_CHECK(count <= static_cast<int>(schema.size()), handle.schema().name(), " takes ", schema.size(), " arguments, not ", count);
    c10::Stack stack;
    stack.reserve(schema.size());
    for (int k = 0; k < count; ++k) stack.push_back(unpack(arguments[k], schema[k]));
    for (size_t k = count; k < schema.size(); ++k) {
      TORCH_CHECK(schema[k].default_value().has_value(), handle.schema().name(), ": argument '", schema[k].name(), "' is missing");
      stack.push_back(*schema[k].default_value());
    }
    handle.callBoxed(&stack);
    TORCH_CHECK(static_cast<int>(stack.size()) <= capacity, handle.schema().name(), " returned ", stack.size(), " values");
    for (size_t k = 0; k < stack.size(); ++k) results[k] = pack(std::move(stack[k]));
    return static_cast<int>(stack.size());
  });
}

API void opensora_free_handles(int64_t* handles) { delete[] handles; }

// ---- tensors ----

API void opensora_tensor_free(at::TensorImpl* tensor) {
  if (tensor) c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim(tensor);
}

API at::TensorImpl* opensora_tensor_share(at::TensorImpl* tensor) { return release(borrow(tensor)); }

API int opensora_tensor_dim(at::TensorImpl* tensor) { return static_cast<int>(tensor->dim()); }
API int64_t opensora_tensor_size(at::TensorImpl* tensor, int dim) { return tensor->sizes()[dim]; }
API int64_t opensora_tensor_stride(at::TensorImpl* tensor, int dim) { return tensor->strides()[dim]; }
API int64_t opensora_tensor_numel(at::TensorImpl* tensor) { return tensor->numel(); }
API int64_t opensora_tensor_storage_offset(at::TensorImpl* tensor) { return tensor->storage_offset(); }
API int opensora_tensor_dtype(at::TensorImpl* tensor) { return static_cast<int>(c10::typeMetaToScalarType(tensor->dtype())); }
API int opensora_tensor_device(at::TensorImpl* tensor, int* index) {
  auto device = tensor->device();
  *index = device.index();
  return static_cast<int>(device.type());
}
API int opensora_tensor_is_contiguous(at::TensorImpl* tensor) { return tensor->is_contiguous(); }

API void* opensora_tensor_data(at::TensorImpl* tensor) {
  return guarded<void*>(nullptr, [&]() { return borrow(tensor).data_ptr(); });
}

API int opensora_tensor_requires_grad(at::TensorImpl* tensor) { return tensor->requires_grad(); }
API int opensora_tensor_set_requires_grad(at::TensorImpl* tensor, int on) {
  return guarded(-1, [&]() { borrow(tensor).requires_grad_(on != 0); return 0; });
}
API int opensora_tensor_is_leaf(at::TensorImpl* tensor) { return borrow(tensor).is_leaf(); }
API int opensora_tensor_retain_grad(at::TensorImpl* tensor) {
  return guarded(-1, [&]() { borrow(tensor).retain_grad(); return 0; });
}
API at::TensorImpl* opensora_tensor_grad(at::TensorImpl* tensor) {
  return guarded<at::TensorImpl*>(nullptr, [&]() { return release(borrow(tensor).grad()); });
}
API int opensora_tensor_set_grad(at::TensorImpl* tensor, at::TensorImpl* grad) {
  return guarded(-1, [&]() { borrow(tensor).mutable_grad() = borrow(grad); return 0; });
}
// Makes `tensor` hold what `other` holds, as `tensor.data = other` does in Python.
API int opensora_tensor_set_data(at::TensorImpl* tensor, at::TensorImpl* other) {
  return guarded(-1, [&]() { borrow(tensor).set_data(borrow(other)); return 0; });
}

// A tensor over memory of the caller's; `release_memory(context)` is called when nothing refers to it any more.
API at::TensorImpl* opensora_tensor_over_memory(void* data, const int64_t* sizes, int dim, int dtype, void (*release_memory)(void*), void* context) {
  return guarded<at::TensorImpl*>(nullptr, [&]() {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype));
    return release(at::from_blob(data, at::IntArrayRef(sizes, dim), [release_memory, context](void*) { if (release_memory) release_memory(context); }, options));
  });
}

// ---- autograd ----

API int opensora_grad_enabled() { return at::GradMode::is_enabled(); }
API void opensora_set_grad_enabled(int on) { at::GradMode::set_enabled(on != 0); }
API void* opensora_inference_mode_enter(int on) { return new c10::InferenceMode(on != 0); }
API void opensora_inference_mode_leave(void* guard) { delete static_cast<c10::InferenceMode*>(guard); }
API int opensora_inference_mode_enabled() { return c10::InferenceMode::is_enabled(); }

API int opensora_backward(at::TensorImpl** outputs, int output_count, at::TensorImpl** gradients, int gradient_count, int retain, int create,
                          at::TensorImpl** inputs, int input_count) {
  return guarded(-1, [&]() {
    torch::autograd::backward(borrow_all(outputs, output_count), borrow_all(gradients, gradient_count), retain != 0, create != 0,
                              borrow_all(inputs, input_count));
    return 0;
  });
}

API int opensora_grad(at::TensorImpl** outputs, int output_count, at::TensorImpl** inputs, int input_count, at::TensorImpl** gradients,
                      int gradient_count, int retain, int create, int allow_unused, at::TensorImpl** results) {
  return guarded(-1, [&]() {
    auto found = torch::autograd::grad(borrow_all(outputs, output_count), borrow_all(inputs, input_count), borrow_all(gradients, gradient_count),
                                       retain != 0, create != 0, allow_unused != 0);
    for (size_t k = 0; k < found.size(); ++k) results[k] = release(found[k]);
    return 0;
  });
}

namespace {

// Receives the gradients of a managed function's outputs (borrowed) and gives those of its inputs (owned, null = none). Returns 0, or less than
// -1 if it failed.
using BackwardCallback = int (*)(void* context, at::TensorImpl** gradients, int count, at::TensorImpl** results, int result_count);
using ReleaseCallback = void (*)(void* context);

struct ManagedNode final : torch::autograd::Node {
  BackwardCallback callback;
  ReleaseCallback forget_saved, release_context;
  void* context;

  ~ManagedNode() override { release_context(context); }

  std::string name() const override { return "ManagedFunction"; }

  // Called after a backward pass that does not retain the graph, and before the node is deleted.
  void release_variables() override { forget_saved(context); }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    std::vector<at::TensorImpl*> in, out(num_outputs(), nullptr);
    for (auto& gradient : gradients) in.push_back(gradient.defined() ? gradient.unsafeGetTensorImpl() : nullptr);
    auto code = callback(context, in.data(), static_cast<int>(in.size()), out.data(), static_cast<int>(out.size()));
    torch::autograd::variable_list results;
    for (auto handle : out)
      results.push_back(handle ? at::Tensor(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim(handle)) : at::Tensor());
    if (code != 0) throw ManagedFailure(code);
    return results;
  }
};

}  // namespace

// Ties outputs, computed without gradients, to inputs by a managed backward. `outputs` is replaced by new handles. Where no gradient is
// needed the outputs come back as they are and the context is released at once.
API int opensora_custom_function(at::TensorImpl** inputs, int input_count, at::TensorImpl** outputs, int output_count, const uint8_t* differentiable,
                                 BackwardCallback callback, ReleaseCallback forget_saved, ReleaseCallback release_context, void* context) {
  return guarded(-1, [&]() {
    auto in = borrow_all(inputs, input_count);
    std::shared_ptr<ManagedNode> node;
    if (torch::autograd::compute_requires_grad(in)) {
      node = std::shared_ptr<ManagedNode>(new ManagedNode(), torch::autograd::deleteNode);
      node->callback = callback;
      node->forget_saved = forget_saved;
      node->release_context = release_context;
      node->context = context;
      node->set_next_edges(torch::autograd::collect_next_edges(in));
    }
    for (int k = 0; k < output_count; ++k) {
      at::Tensor output;
      {
        at::NoGradGuard no_grad;
        output = borrow(outputs[k]).detach();
      }
      if (node && differentiable[k]) torch::autograd::create_gradient_edge(output, node);
      else if (node) node->add_input_metadata(torch::autograd::Node::undefined_input());
      outputs[k] = release(output);
    }
    if (!node) release_context(context);
    return 0;
  });
}

// ---- generators ----

API c10::GeneratorImpl* opensora_generator(uint64_t seed, int device, int index) {
  return guarded<c10::GeneratorImpl*>(nullptr, [&]() {
    at::Generator generator = device == 0 ? at::detail::createCPUGenerator(seed)
                                          : at::globalContext().defaultGenerator(c10::Device(static_cast<c10::DeviceType>(device), static_cast<c10::DeviceIndex>(index))).clone();
    generator.set_current_seed(seed);
    return generator.unsafeReleaseGeneratorImpl();
  });
}
API c10::GeneratorImpl* opensora_generator_default() {
  return guarded<c10::GeneratorImpl*>(nullptr, [&]() {
    return at::Generator(at::globalContext().defaultGenerator(c10::Device(c10::kCPU))).unsafeReleaseGeneratorImpl();
  });
}
API void opensora_generator_free(c10::GeneratorImpl* generator) { c10::intrusive_ptr<c10::GeneratorImpl>::reclaim(generator); }
API void opensora_generator_set_seed(c10::GeneratorImpl* generator, uint64_t seed) {
  std::lock_guard<std::mutex> lock(generator->mutex_);
  generator->set_current_seed(seed);
}
API uint64_t opensora_generator_seed(c10::GeneratorImpl* generator) { return generator->current_seed(); }
API at::TensorImpl* opensora_generator_state(c10::GeneratorImpl* generator) {
  return guarded<at::TensorImpl*>(nullptr, [&]() {
    std::lock_guard<std::mutex> lock(generator->mutex_);
    return generator->get_state().release();
  });
}
API int opensora_generator_set_state(c10::GeneratorImpl* generator, at::TensorImpl* state) {
  return guarded(-1, [&]() {
    std::lock_guard<std::mutex> lock(generator->mutex_);
    generator->set_state(*state);
    return 0;
  });
}
API int opensora_manual_seed(uint64_t seed) {
  return guarded(-1, [&]() { at::manual_seed(seed); return 0; });
}

// ---- machine ----

API int opensora_threads() { return at::get_num_threads(); }
API int opensora_set_threads(int count) {
  return guarded(-1, [&]() {
    at::set_num_threads(count);
    // libtorch does not tell an OpenBLAS with threads of its own, whose idle threads then spin beside those of several callers.
    static const auto blas = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
    if (blas) blas(count);
    return 0;
  });
}
API int opensora_interop_threads() { return at::get_num_interop_threads(); }
API int opensora_set_flush_denormal(int on) { return at::globalContext().setFlushDenormal(on != 0); }
// Loads a further library of libtorch's (libtorch_cuda.so): a CUDA build registers its operators when loaded.
API int opensora_load_library(const char* path) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL)) return 0;
  last_error = dlerror();
  return -1;
}
API int opensora_cuda_available() { return guarded(0, []() { return at::detail::getCUDAHooks().hasCUDA() ? 1 : 0; }); }
API int opensora_cuda_device_count() {
  return guarded(0, []() { return at::detail::getCUDAHooks().hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().getNumGPUs()) : 0; });
}
