using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using OpenSora.Distributed;

namespace OpenSora.Mpi;

/// <summary>The functions of MPI, with the handles of MPICH's binary interface, which are integers.</summary>
internal static partial class MpiNative
{
    public const int CommWorld = 0x44000000;
    public const int Short = 0x4c000203; // moves the bytes of bfloat16 values
    public const int Float = 0x4c00040a;
    public const int Double = 0x4c00080b;
    public const int LongLong = 0x4c000809;
    public const int Maximum = 0x58000001;
    public const int Sum = 0x58000003;
    public const int RequestNull = 0x2c000000;
    public const int ThreadFunneled = 1;
    public const nint InPlace = -1;
    private const int ErrorsReturn = 0x54000001;
    private const nint StatusIgnore = 1;
    private const string Library = "OpenSora.Mpi.Native";

    /// <summary>The environment variable with the path of MPI's library, for systems that have it in another place or under another name.</summary>
    public const string PathVariable = "OPENSORA_MPI";

    private static nint s_library;

    /// <summary>Loads the library of MPI.</summary>
    /// <exception cref="DllNotFoundException">There is no MPI library, or only one with another binary interface.</exception>
    public static void Load()
    {
        if (s_library != 0)
        {
            return;
        }

        // UCX, the network layer of MPICH, would handle the signal by which .NET recognizes null references. It reads the variable when it is loaded.
        SetVariableForNativeCode("UCX_ERROR_SIGNALS", "");
        s_library = Find(
            Environment.GetEnvironmentVariable,
            name => NativeLibrary.TryLoad(name, out var handle) ? handle : 0,
            OperatingSystem.IsWindows() ? OSPlatform.Windows
                : OperatingSystem.IsMacOS() ? OSPlatform.OSX
                : OSPlatform.Linux
        );
        NativeLibrary.SetDllImportResolver(Assembly.GetExecutingAssembly(), (name, _, _) =>
            string.Equals(name, Library, StringComparison.Ordinal) ? s_library : 0
        );
    }

    /// <summary>Finds the library of MPI.</summary>
    /// <param name="variable">Returns the value of an environment variable.</param>
    /// <param name="load">Loads a library; 0 if that is not possible.</param>
    /// <param name="platform">The operating system.</param>
    internal static nint Find(Func<string, string?> variable, Func<string, nint> load, OSPlatform platform)
    {
        const string Install =
            "Install MPICH (Debian and Ubuntu: apt-get install mpich; macOS: brew install mpich), Intel MPI or MVAPICH, or MS-MPI on Windows.";
        if (variable("OMPI_COMM_WORLD_SIZE") is not null)
        {
            throw new DllNotFoundException(
                $"This process was started by Open MPI, which has another binary interface. Use the mpirun of MPICH (mpirun.mpich on Debian). "
                    + $"{Install}"
            );
        }

        if (variable(PathVariable) is { Length: > 0 } path)
        {
            return load(path) is var chosen and not 0
                ? chosen
                : throw new DllNotFoundException($"The library {path} of the variable {PathVariable} cannot be loaded. Set it to MPI's library.");
        }

        string[] names =
            platform == OSPlatform.Windows ? ["msmpi.dll"]
            : platform == OSPlatform.OSX
                ? ["libmpi.12.dylib", "/opt/homebrew/lib/libmpi.12.dylib", "/usr/local/lib/libmpi.12.dylib", "libmpich.12.dylib"]
            : ["libmpi.so.12", "libmpich.so.12"];
        foreach (var name in names)
        {
            if (load(name) is var handle and not 0)
            {
                return handle;
            }
        }

        var found = platform == OSPlatform.Linux && load("libmpi.so.40") != 0;
        throw new DllNotFoundException(
            (found ? "Only Open MPI is installed, which has another binary interface. " : $"MPI is not installed: {names[0]} was not found. ")
                + $"{Install} {PathVariable} names a library in another place."
        );
    }

    /// <summary>Throws an exception if a function returned an error.</summary>
    public static unsafe void Check(int error, string operation)
    {
        if (error == 0)
        {
            return;
        }

        var text = stackalloc byte[1024];
        var message = MPI_Error_string(error, text, out var length) == 0 ? Encoding.UTF8.GetString(text, length) : $"error {error}";
        throw new CollectiveException($"{operation} failed in MPI: {message.ReplaceLineEndings(" ")}");
    }

    /// <summary>Makes the functions on a group return errors instead of ending the process.</summary>
    public static void ReturnErrors(int comm) => Check(MPI_Comm_set_errhandler(comm, ErrorsReturn), "The start");

    /// <summary>Determines whether an operation is complete, and makes progress with all.</summary>
    public static bool IsComplete(ref int request, string operation)
    {
        Check(MPI_Test(ref request, out var complete, StatusIgnore), operation);
        return complete != 0;
    }

    /// <summary>Sends one value to each process and receives one from each.</summary>
    public static unsafe void ExchangeWithEach(int comm, int size, string operation)
    {
        Span<int> counts = new int[size];
        Span<int> offsets = new int[size];
        Span<short> values = new short[2 * size];
        counts.Fill(1);
        for (var i = 0; i < size; i++)
        {
            offsets[i] = i;
        }

        fixed (
            int* count = counts,
                offset = offsets
        )
        fixed (short* value = values)
        {
            Check(MPI_Alltoallv(value, count, offset, Short, value + size, count, offset, Short, comm), operation);
        }
    }

    private static void SetVariableForNativeCode(string name, string value)
    {
        if (!OperatingSystem.IsWindows())
        {
            _ = SetVariable(name, value, overwrite: 0);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetVariable(string name, string value, int overwrite);

    [LibraryImport(Library)]
    public static partial int MPI_Initialized(out int flag);

    [LibraryImport(Library)]
    public static partial int MPI_Init_thread(nint argumentCount, nint arguments, int required, out int provided);

    [LibraryImport(Library)]
    public static partial int MPI_Finalize();

    [LibraryImport(Library)]
    public static partial int MPI_Abort(int comm, int code);

    [LibraryImport(Library)]
    public static partial int MPI_Comm_rank(int comm, out int rank);

    [LibraryImport(Library)]
    public static partial int MPI_Comm_size(int comm, out int size);

    [LibraryImport(Library)]
    public static partial int MPI_Comm_dup(int comm, out int duplicate);

    [LibraryImport(Library)]
    public static partial int MPI_Comm_split(int comm, int color, int key, out int part);

    [LibraryImport(Library)]
    public static partial int MPI_Comm_free(ref int comm);

    [LibraryImport(Library)]
    public static partial int MPI_Iallreduce(nint send, nint receive, int count, int type, int operation, int comm, out int request);

    [LibraryImport(Library)]
    public static partial int MPI_Ireduce_scatter_block(nint send, nint receive, int count, int type, int operation, int comm, out int request);

    [LibraryImport(Library)]
    public static partial int MPI_Iallgather(
        nint send,
        int sendCount,
        int sendType,
        nint receive,
        int receiveCount,
        int receiveType,
        int comm,
        out int request
    );

    [LibraryImport(Library)]
    public static partial int MPI_Ialltoall(
        nint send,
        int sendCount,
        int sendType,
        nint receive,
        int receiveCount,
        int receiveType,
        int comm,
        out int request
    );

    [LibraryImport(Library)]
    private static unsafe partial int MPI_Alltoallv(
        short* send,
        int* sendCounts,
        int* sendOffsets,
        int sendType,
        short* receive,
        int* receiveCounts,
        int* receiveOffsets,
        int receiveType,
        int comm
    );

    [LibraryImport(Library)]
    public static partial int MPI_Ibcast(nint buffer, int count, int type, int root, int comm, out int request);

    [LibraryImport(Library)]
    public static partial int MPI_Ibarrier(int comm, out int request);

    [LibraryImport(Library)]
    private static partial int MPI_Test(ref int request, out int flag, nint status);

    [LibraryImport(Library)]
    private static partial int MPI_Comm_set_errhandler(int comm, int handler);

    [LibraryImport(Library)]
    private static unsafe partial int MPI_Error_string(int error, byte* text, out int length);
}
