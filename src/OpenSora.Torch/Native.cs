using System.Runtime.InteropServices;

namespace OpenSora.Torch;

/// <summary>The functions of libopensora_torch, one for one.</summary>
internal static unsafe partial class Native
{
    private const string Library = "opensora_torch";

    static Native() => OpenBlas.ChooseKernels(); // the library brings libtorch along, and that OpenBLAS

    internal enum Tag { None, Tensor, Int, Double, Bool, IntList, TensorList, OptionalTensorList, DoubleList, BoolList, String, Generator, Device, Default }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Value
    {
        public Tag Tag;
        public int Length;
        public long I;
        public double D;
    }

    [LibraryImport(Library, EntryPoint = "opensora_error")] private static partial byte* Error();
    [LibraryImport(Library, EntryPoint = "opensora_version")] private static partial byte* VersionText();
    [LibraryImport(Library, EntryPoint = "opensora_operator", StringMarshalling = StringMarshalling.Utf8)] internal static partial IntPtr Operator(string name, string overload);
    [LibraryImport(Library, EntryPoint = "opensora_call")] internal static partial int Call(IntPtr op, Value* arguments, int count, Value* results, int capacity);
    [LibraryImport(Library, EntryPoint = "opensora_free_handles")] internal static partial void FreeHandles(IntPtr* handles);

    [LibraryImport(Library, EntryPoint = "opensora_tensor_free")] internal static partial void Free(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_share")] internal static partial IntPtr Share(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_dim"), SuppressGCTransition] internal static partial int Dim(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_size"), SuppressGCTransition] internal static partial long Size(IntPtr tensor, int dim);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_stride"), SuppressGCTransition] internal static partial long Stride(IntPtr tensor, int dim);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_numel"), SuppressGCTransition] internal static partial long Numel(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_storage_offset"), SuppressGCTransition] internal static partial long StorageOffset(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_dtype"), SuppressGCTransition] internal static partial int Dtype(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_device"), SuppressGCTransition] internal static partial int Device(IntPtr tensor, int* index);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_is_contiguous"), SuppressGCTransition] internal static partial int IsContiguous(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_data")] internal static partial void* Data(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_requires_grad")] internal static partial int RequiresGrad(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_set_requires_grad")] internal static partial int SetRequiresGrad(IntPtr tensor, int on);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_is_leaf")] internal static partial int IsLeaf(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_retain_grad")] internal static partial int RetainGrad(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_grad")] internal static partial IntPtr Grad(IntPtr tensor);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_set_grad")] internal static partial int SetGrad(IntPtr tensor, IntPtr grad);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_set_data")] internal static partial int SetData(IntPtr tensor, IntPtr other);
    [LibraryImport(Library, EntryPoint = "opensora_tensor_over_memory")]
    internal static partial IntPtr OverMemory(IntPtr data, long* sizes, int dim, int dtype, delegate* unmanaged<IntPtr, void> release, IntPtr context);

    [LibraryImport(Library, EntryPoint = "opensora_grad_enabled"), SuppressGCTransition] internal static partial int GradEnabled();
    [LibraryImport(Library, EntryPoint = "opensora_set_grad_enabled"), SuppressGCTransition] internal static partial void SetGradEnabled(int on);
    [LibraryImport(Library, EntryPoint = "opensora_inference_mode_enter")] internal static partial IntPtr InferenceModeEnter(int on);
    [LibraryImport(Library, EntryPoint = "opensora_inference_mode_leave")] internal static partial void InferenceModeLeave(IntPtr guard);
    [LibraryImport(Library, EntryPoint = "opensora_inference_mode_enabled")] internal static partial int InferenceModeEnabled();
    [LibraryImport(Library, EntryPoint = "opensora_backward")]
    internal static partial int Backward(IntPtr* outputs, int outputCount, IntPtr* gradients, int gradientCount, int retain, int create, IntPtr* inputs, int inputCount);
    [LibraryImport(Library, EntryPoint = "opensora_grad")]
    internal static partial int Gradients(IntPtr* outputs, int outputCount, IntPtr* inputs, int inputCount, IntPtr* gradients, int gradientCount, int retain,
        int create, int allowUnused, IntPtr* results);
    [LibraryImport(Library, EntryPoint = "opensora_custom_function")]
    internal static partial int CustomFunction(IntPtr* inputs, int inputCount, IntPtr* outputs, int outputCount, byte* differentiable,
        delegate* unmanaged<IntPtr, IntPtr*, int, IntPtr*, int, int> backward, delegate* unmanaged<IntPtr, void> forget, delegate* unmanaged<IntPtr, void> release,
        IntPtr context);

    [LibraryImport(Library, EntryPoint = "opensora_generator")] internal static partial IntPtr NewGenerator(ulong seed, int device, int index);
    [LibraryImport(Library, EntryPoint = "opensora_generator_default")] internal static partial IntPtr DefaultGenerator();
    [LibraryImport(Library, EntryPoint = "opensora_generator_free")] internal static partial void FreeGenerator(IntPtr generator);
    [LibraryImport(Library, EntryPoint = "opensora_generator_set_seed")] internal static partial void SetGeneratorSeed(IntPtr generator, ulong seed);
    [LibraryImport(Library, EntryPoint = "opensora_generator_seed")] internal static partial ulong GeneratorSeed(IntPtr generator);
    [LibraryImport(Library, EntryPoint = "opensora_generator_state")] internal static partial IntPtr GeneratorState(IntPtr generator);
    [LibraryImport(Library, EntryPoint = "opensora_generator_set_state")] internal static partial int SetGeneratorState(IntPtr generator, IntPtr state);
    [LibraryImport(Library, EntryPoint = "opensora_manual_seed")] internal static partial int ManualSeed(ulong seed);

    [LibraryImport(Library, EntryPoint = "opensora_threads")] internal static partial int Threads();
    [LibraryImport(Library, EntryPoint = "opensora_set_threads")] internal static partial int SetThreads(int count);
    [LibraryImport(Library, EntryPoint = "opensora_interop_threads")] internal static partial int InteropThreads();
    [LibraryImport(Library, EntryPoint = "opensora_set_flush_denormal")] internal static partial int SetFlushDenormal(int on);
    [LibraryImport(Library, EntryPoint = "opensora_load_library", StringMarshalling = StringMarshalling.Utf8)] internal static partial int LoadLibrary(string path);
    [LibraryImport(Library, EntryPoint = "opensora_cuda_available")] internal static partial int CudaAvailable();
    [LibraryImport(Library, EntryPoint = "opensora_cuda_device_count")] internal static partial int CudaDeviceCount();

    internal static string Version => Marshal.PtrToStringUTF8((IntPtr)VersionText())!;

    /// <summary>Throws what libtorch said, as TorchSharp does.</summary>
    internal static ExternalException Failure() => new(Marshal.PtrToStringUTF8((IntPtr)Error()));

    internal static void Check(int result)
    {
        if (result < 0) throw Failure();
    }

    internal static IntPtr Check(IntPtr result) => result != IntPtr.Zero ? result : throw Failure();
}
