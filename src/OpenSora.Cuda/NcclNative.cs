using System.Collections.Concurrent;
using System.Reflection;
using System.Runtime.InteropServices;

namespace OpenSora.Cuda;

/// <summary>NCCL and the CUDA driver of this machine.</summary>
/// <remarks>The driver's functions are used instead of those of the CUDA runtime, because libtorch has a runtime under a name of its own. The handles
/// of streams and events are the same in both.</remarks>
internal sealed unsafe partial class NcclNative : INccl
{
    /// <summary>The environment variable with the path of NCCL's library, for systems that have it in another place.</summary>
    public const string PathVariable = "OPENSORA_NCCL";

    private const string NcclLibrary = "OpenSora.Cuda.Nccl";
    private const string DriverLibrary = "OpenSora.Cuda.Driver";
    private const uint NonBlocking = 1;
    private const uint DisableTiming = 2;
    private static readonly Lazy<NcclNative> Loaded = new(() => new NcclNative(Find(NativeLibrary.TryLoad)));

    private readonly ConcurrentDictionary<int, nint> _contexts = new();

    private NcclNative((nint Nccl, nint Driver) libraries) =>
        NativeLibrary.SetDllImportResolver(Assembly.GetExecutingAssembly(), (name, _, _) => name switch
            {
                NcclLibrary => libraries.Nccl,
                DriverLibrary => libraries.Driver,
                _ => 0,
            });

    /// <summary>Loads a library.</summary>
    internal delegate bool Loader(string name, out nint handle);

    /// <summary>Loads the libraries, once.</summary>
    /// <exception cref="DllNotFoundException">NCCL or the driver is not installed.</exception>
    public static NcclNative Load() => Loaded.Value;

    /// <summary>Finds the libraries.</summary>
    internal static (nint Nccl, nint Driver) Find(Loader load)
    {
        if (!load(OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1", out var driver))
        {
            throw new DllNotFoundException(
                "No NVIDIA driver was found on this machine, so GPUs cannot exchange tensors. Use MpiCollectives of the package OpenSora.Lib.Mpi "
                    + "for CPUs."
            );
        }

        var chosen = Environment.GetEnvironmentVariable(PathVariable);
        var name = chosen is { Length: > 0 } ? chosen : "libnccl.so.2";
        return load(name, out var nccl)
            ? (nccl, driver)
            : throw new DllNotFoundException(
                $"NCCL is not installed: {name} was not found. Install NVIDIA's package libnccl2 (Linux only), or set {PathVariable} to the "
                    + "library's path."
            );
    }

    /// <inheritdoc/>
    public int UseDevice(int device)
    {
        // The context that libtorch uses too.
        if (!_contexts.TryGetValue(device, out var context))
        {
            var (error, handle) = (cuInit(0), 0);
            error = error != 0 ? error : cuDeviceGet(out handle, device);
            error = error != 0 ? error : cuDevicePrimaryCtxRetain(out context, handle);
            if (error != 0)
            {
                return error;
            }

            _contexts[device] = context;
        }

        return cuCtxSetCurrent(context);
    }

    /// <inheritdoc/>
    public int CreateStream(out nint stream) => cuStreamCreate(out stream, NonBlocking);

    /// <inheritdoc/>
    public int DestroyStream(nint stream) => cuStreamDestroy_v2(stream);

    /// <inheritdoc/>
    public int CreateEvent(out nint @event) => cuEventCreate(out @event, DisableTiming);

    /// <inheritdoc/>
    public int RecordEvent(nint @event, nint stream) => cuEventRecord(@event, stream);

    /// <inheritdoc/>
    public int WaitForEvent(nint stream, nint @event) => cuStreamWaitEvent(stream, @event, 0);

    /// <inheritdoc/>
    public int QueryEvent(nint @event) => cuEventQuery(@event);

    /// <inheritdoc/>
    public int DestroyEvent(nint @event) => cuEventDestroy_v2(@event);

    /// <inheritdoc/>
    public string DescribeCudaError(int error) => cuGetErrorString(error, out var text) == 0 ? Marshal.PtrToStringUTF8(text)! : $"error {error}";

    /// <inheritdoc/>
    public int GetUniqueId(Span<byte> id)
    {
        UniqueId value = default;
        var error = ncclGetUniqueId(&value);
        MemoryMarshal.AsBytes(new ReadOnlySpan<UniqueId>(in value)).CopyTo(id);
        return error;
    }

    /// <inheritdoc/>
    public int CommInitRank(out nint comm, int size, ReadOnlySpan<byte> id, int rank) =>
        ncclCommInitRank(out comm, size, MemoryMarshal.Read<UniqueId>(id), rank);

    /// <inheritdoc/>
    public int CommSplit(nint comm, int color, int key, out nint part) => ncclCommSplit(comm, color, key, out part, 0);

    /// <inheritdoc/>
    public int CommCount(nint comm, out int size) => ncclCommCount(comm, out size);

    /// <inheritdoc/>
    public int CommUserRank(nint comm, out int rank) => ncclCommUserRank(comm, out rank);

    /// <inheritdoc/>
    public int CommGetAsyncError(nint comm, out int error) => ncclCommGetAsyncError(comm, out error);

    /// <inheritdoc/>
    public int CommAbort(nint comm) => ncclCommAbort(comm);

    /// <inheritdoc/>
    public int CommDestroy(nint comm) => ncclCommDestroy(comm);

    /// <inheritdoc/>
    public int AllReduce(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream) =>
        ncclAllReduce(send, receive, count, type, operation, comm, stream);

    /// <inheritdoc/>
    public int ReduceScatter(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream) =>
        ncclReduceScatter(send, receive, count, type, operation, comm, stream);

    /// <inheritdoc/>
    public int AllGather(nint send, nint receive, nuint count, int type, nint comm, nint stream) =>
        ncclAllGather(send, receive, count, type, comm, stream);

    /// <inheritdoc/>
    public int Broadcast(nint send, nint receive, nuint count, int type, int root, nint comm, nint stream) =>
        ncclBroadcast(send, receive, count, type, root, comm, stream);

    /// <inheritdoc/>
    public int Send(nint buffer, nuint count, int type, int peer, nint comm, nint stream) => ncclSend(buffer, count, type, peer, comm, stream);

    /// <inheritdoc/>
    public int Receive(nint buffer, nuint count, int type, int peer, nint comm, nint stream) => ncclRecv(buffer, count, type, peer, comm, stream);

    /// <inheritdoc/>
    public int GroupStart() => ncclGroupStart();

    /// <inheritdoc/>
    public int GroupEnd() => ncclGroupEnd();

    /// <inheritdoc/>
    public string DescribeError(int error) => Marshal.PtrToStringUTF8(ncclGetErrorString(error)) ?? $"error {error}";

    [LibraryImport(DriverLibrary)]
    private static partial int cuInit(uint flags);

    [LibraryImport(DriverLibrary)]
    private static partial int cuDeviceGet(out int handle, int device);

    [LibraryImport(DriverLibrary)]
    private static partial int cuDevicePrimaryCtxRetain(out nint context, int handle);

    [LibraryImport(DriverLibrary)]
    private static partial int cuCtxSetCurrent(nint context);

    [LibraryImport(DriverLibrary)]
    private static partial int cuStreamCreate(out nint stream, uint flags);

    [LibraryImport(DriverLibrary)]
    private static partial int cuStreamDestroy_v2(nint stream);

    [LibraryImport(DriverLibrary)]
    private static partial int cuStreamWaitEvent(nint stream, nint @event, uint flags);

    [LibraryImport(DriverLibrary)]
    private static partial int cuEventCreate(out nint @event, uint flags);

    [LibraryImport(DriverLibrary)]
    private static partial int cuEventRecord(nint @event, nint stream);

    [LibraryImport(DriverLibrary)]
    private static partial int cuEventQuery(nint @event);

    [LibraryImport(DriverLibrary)]
    private static partial int cuEventDestroy_v2(nint @event);

    [LibraryImport(DriverLibrary)]
    private static partial int cuGetErrorString(int error, out nint text);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclGetUniqueId(UniqueId* id);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommInitRank(out nint comm, int size, UniqueId id, int rank);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommSplit(nint comm, int color, int key, out nint part, nint config);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommCount(nint comm, out int size);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommUserRank(nint comm, out int rank);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommGetAsyncError(nint comm, out int error);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommAbort(nint comm);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclCommDestroy(nint comm);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclAllReduce(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclReduceScatter(nint send, nint receive, nuint count, int type, int operation, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclAllGather(nint send, nint receive, nuint count, int type, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclBroadcast(nint send, nint receive, nuint count, int type, int root, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclSend(nint buffer, nuint count, int type, int peer, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclRecv(nint buffer, nuint count, int type, int peer, nint comm, nint stream);

    [LibraryImport(NcclLibrary)]
    private static partial int ncclGroupStart();

    [LibraryImport(NcclLibrary)]
    private static partial int ncclGroupEnd();

    [LibraryImport(NcclLibrary)]
    private static partial nint ncclGetErrorString(int error);

    // It is passed by value.
    private struct UniqueId
    {
        public fixed byte Bytes[INccl.IdSize];
    }
}
