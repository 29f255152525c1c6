using OpenSora.Torch;

namespace TorchSharp;

/// <summary>PyTorch's functions, with TorchSharp's names and signatures, on the libtorch of this machine.</summary>
public static partial class torch
{
    public static readonly Device CPU = new(DeviceType.CPU);

    public static readonly Device META = new(DeviceType.META);

    public static Device CUDA => new(DeviceType.CUDA);

    public static string __version__ => Native.Version;

    public static DisposeScope NewDisposeScope() => new();

    public static Tensor WrappedTensorDisposeScope(Func<Tensor> expr)
    {
        using var scope = NewDisposeScope();
        return expr().MoveToOuterDisposeScope();
    }

    public static Device device(string description) => new(description);

    public static Device device(string deviceType, int index = -1) => new(deviceType, index);

    public static Device device(DeviceType deviceType, int index = -1) => new(deviceType, index);

    public static Device device(int index) => new(index);

    public static ScalarType get_default_dtype() => defaultType;

    public static void set_default_dtype(ScalarType dtype) => defaultType = dtype;

    public static int get_num_threads() => Native.Threads();

    public static void set_num_threads(int num) => Native.Check(Native.SetThreads(num));

    public static int get_num_interop_threads() => Native.InteropThreads();

    public static bool is_tensor(object obj) => obj is Tensor;

    public static bool cuda_is_available() => cuda.is_available();

    public static Tensor cat(IList<Tensor> tensors, long dim = 0) => Aten.Call("cat", Argument.List([.. tensors]), dim);

    public static Tensor cat(Tensor[] tensors, long dim = 0) => Aten.Call("cat", tensors, dim);

    public static Tensor cat(ReadOnlySpan<Tensor> tensors, long dim = 0) => Aten.Call("cat", tensors.ToArray(), dim);

    public static Tensor concat(IList<Tensor> tensors, long dim = 0) => cat(tensors, dim);

    public static Tensor stack(IEnumerable<Tensor> tensors, long dim = 0) => Aten.Call("stack", tensors.ToArray(), dim);

    public static Tensor where(Tensor condition, Tensor x, Tensor y) => Aten.Call("where.self", condition, x, y);

    public static Tensor einsum(string equation, params Tensor[] tensors) => Aten.Call("einsum", equation, tensors);

    public static Tensor[] meshgrid(IEnumerable<Tensor> tensors, string indexing = "ij") => Aten.CallList("meshgrid.indexing", tensors.ToArray(), indexing);

    public static Tensor div(Tensor left, Tensor right, RoundingMode rounding_mode = RoundingMode.None) => left.div(right, rounding_mode);

    public static Tensor div(Tensor left, Scalar right, RoundingMode rounding_mode = RoundingMode.None) => left.div(right, rounding_mode);

    public static Tensor flatten(Tensor input, long start_dim = 0, long end_dim = -1) => input.flatten(start_dim, end_dim);

    public static Tensor sum(Tensor input, long dim, bool keepdim = false, ScalarType? type = null) => input.sum(dim, keepdim, type);

    public static bool allclose(Tensor tensor, Tensor target, double rtol = 1e-05, double atol = 1e-08, bool equal_nan = false) => tensor.allclose(target, rtol, atol, equal_nan);

    public static ScalarType promote_types(ScalarType type1, ScalarType type2)
    {
        using var scope = NewDisposeScope();
        return (empty(0L, type1) + empty(0L, type2)).dtype;
    }

    public static partial class cuda
    {
        /// <summary>Whether this libtorch was built with CUDA, its CUDA part loads, and a device answers.</summary>
        public static bool is_available() => device_count() > 0;

        public static int device_count()
        {
            Backends.LoadCuda();
            return Native.CudaAvailable() != 0 ? Native.CudaDeviceCount() : 0;
        }

        public static void synchronize(Device? device = null)
        {
            // Reading one element back waits for all that was queued before it.
            using var probe = zeros(1L, device: device ?? CUDA);
            using var back = probe.cpu();
        }
    }

    public static partial class random
    {
        public static Generator manual_seed(long seed) => torch.manual_seed(seed);

        public static long initial_seed() => Generator.Default.initial_seed();

        public static Tensor get_rng_state() => Generator.Default.get_state();

        public static void set_rng_state(Tensor new_state) => Generator.Default.set_state(new_state);
    }
}
