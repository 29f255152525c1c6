using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using System.Security.Cryptography;
using TorchSharp;

namespace OpenSora.Runtime;

/// <summary>Loads TorchSharp's native library where the operating system cannot, and explains why when nothing helps.</summary>
/// <remarks>
/// <para><c>libLibTorchSharp.so</c> asks for the libstdc++ of GCC 13 although it calls nothing that is new there. On older Linux systems a copy
/// without that
/// requirement is loaded instead (<see cref="ElfVersionNeeds"/>). Where the original loads, nothing here runs.</para>
/// <para>The handler must be registered before the first call of TorchSharp. Two ways lead here: the runtime runs <see cref="StartupHook"/> before
/// <c>Main</c>
/// (buildTransitive/OpenSora.Lib.targets asks for it), and the first use of any type of this assembly runs the module initializer.</para>
/// </remarks>
internal static class NativeLibraries
{
    private const string TorchSharpLibrary = "LibTorchSharp";

    private static readonly Lock Gate = new();
    private static bool _registered;
    private static DllNotFoundException? _failure;

#pragma warning disable CA2255 // A library that must act before TorchSharp's first call has no other place.
    [ModuleInitializer]
#pragma warning restore CA2255
    internal static void Register()
    {
        lock (Gate)
        {
            if (_registered)
            {
                return;
            }
            _registered = true;
            LargePages.Request();
            var context = AssemblyLoadContext.GetLoadContext(typeof(torch).Assembly) ?? AssemblyLoadContext.Default;
            context.ResolvingUnmanagedDll += (_, name) => Resolve(name);
        }
    }

    /// <summary>Called by the runtime for a library that it could not load.</summary>
    /// <remarks>TorchSharp first tries to load its library, and if that fails, copies every native library it can find and prints a hundred lines.
    /// While it tries,
    /// it gets the handle of the program in place of the library, so that it goes on; its first native call then gets the reason as an
    /// exception.</remarks>
    private static IntPtr Resolve(string name)
    {
        if (name is not TorchSharpLibrary)
        {
            return IntPtr.Zero;
        }
        lock (Gate)
        {
            if (_failure is not null)
            {
                return AnswerToFailure(_failure);
            }
            if (IsPackageFolder(Path.GetDirectoryName(typeof(torch).Assembly.Location)))
            {
                return IntPtr.Zero; // a notebook, for which TorchSharp collects libraries from the package folders
            }
            try
            {
                return Load(SearchFolders());
            }
            catch (DllNotFoundException exception)
            {
                _failure = exception;
                return AnswerToFailure(exception);
            }
        }
    }

    private static IntPtr AnswerToFailure(DllNotFoundException failure)
    {
        var isTrial = new StackTrace().GetFrames().Any(frame => frame.GetMethod()?.Name is "LoadNativeBackend" or "TryLoadNativeLibraryByName");
        return isTrial ? NativeLibrary.GetMainProgramHandle() : throw new DllNotFoundException(failure.Message, failure);
    }

    /// <summary>Loads TorchSharp's library after the libtorch beside it.</summary>
    /// <param name="folders">Where the application's native libraries may be.</param>
    /// <exception cref="DllNotFoundException">A file is missing or cannot be loaded; the message says what to do.</exception>
    internal static IntPtr Load(IReadOnlyList<string> folders)
    {
        var library = Find(folders, FileName(TorchSharpLibrary));
        var libtorch = Find(folders, FileName("torch_cpu"));
        if (library is null)
        {
            throw new DllNotFoundException(
                $"TorchSharp has no native library for this platform ({RuntimeInformation.RuntimeIdentifier}) in {Listed(folders)}. " + Platforms
            );
        }
        if (libtorch is null)
        {
            throw new DllNotFoundException(
                $"The application has no libtorch: {FileName("torch_cpu")} is not in {Listed(folders)}. Reference the package TorchSharp-cpu, "
                    + "or TorchSharp-cuda-linux or TorchSharp-cuda-windows for NVIDIA devices, in the project of the program."
            );
        }

        // By absolute path and before the library that needs them: a libtorch that the system has installed must not be picked up.
        foreach (var name in new[] { "c10", "torch_cpu", "torch" })
        {
            var path = Path.Combine(Path.GetDirectoryName(libtorch)!, FileName(name));
            if (File.Exists(path) && !TryLoad(path, out var problem))
            {
                throw new DllNotFoundException($"libtorch cannot be loaded on this system: {problem} {SystemHint(problem)}");
            }
        }

        if (TryLoad(library, out var handle, out var reason))
        {
            return handle;
        }
        if (OperatingSystem.IsLinux() && File.ReadAllBytes(library) is var original && ElfVersionNeeds.Weaken(original) is { } patched)
        {
            var name = $"{FileName(TorchSharpLibrary)}.{Convert.ToHexStringLower(SHA256.HashData(original))[..16]}.so";
            if (TryLoadCopy(name, patched, out handle, out reason))
            {
                return handle;
            }
        }
        throw new DllNotFoundException($"TorchSharp's native library cannot be loaded: {reason} {SystemHint(reason)}");
    }

    /// <summary>Loads a library from memory, through a file in the user's cache folder, or in a temporary folder where that cannot be written or
    /// loaded from.</summary>
    private static bool TryLoadCopy(string name, byte[] contents, out IntPtr handle, out string problem)
    {
        try
        {
            if (PatchedLibraryCache.Folder is { } folder && TryLoad(PatchedLibraryCache.Write(folder, name, contents), out handle, out problem))
            {
                return true;
            }
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // A cache folder that cannot be written is a reason to use another one.
        }

        var temporary = Directory.CreateTempSubdirectory("opensora-"); // only this user can write to it
        try
        {
            return TryLoad(PatchedLibraryCache.Write(temporary.FullName, name, contents), out handle, out problem);
        }
        finally
        {
            temporary.Delete(recursive: true); // a loaded library stays loaded
        }
    }

    private static bool TryLoad(string path, out string problem) => TryLoad(path, out _, out problem);

    private static bool TryLoad(string path, out IntPtr handle, out string problem)
    {
        try
        {
            (handle, problem) = (NativeLibrary.Load(path), "");
            return true;
        }
        catch (Exception exception) when (exception is DllNotFoundException or BadImageFormatException)
        {
            (handle, problem) = (IntPtr.Zero, exception.Message.ReplaceLineEndings(" ").Trim());
            return false;
        }
    }

    /// <summary>The folders that the runtime searches for the application's native libraries.</summary>
    private static List<string> SearchFolders()
    {
        var folders = (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "")
            .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .ToList();
        folders.Add(AppContext.BaseDirectory);
        folders.Add(Path.Combine(AppContext.BaseDirectory, "runtimes", PortableIdentifier, "native"));
        return [.. folders.Select(folder => Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder))).Distinct(StringComparer.Ordinal)];
    }

    private static string PortableIdentifier =>
        (
            OperatingSystem.IsWindows() ? "win-"
            : OperatingSystem.IsMacOS() ? "osx-"
            : "linux-"
        ) + (RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "arm64" : "x64");

    private static string FileName(string library) =>
        OperatingSystem.IsWindows() ? library + ".dll"
        : OperatingSystem.IsMacOS() ? $"lib{library}.dylib"
        : $"lib{library}.so";

    private static string? Find(IReadOnlyList<string> folders, string file) =>
        folders.Select(folder => Path.Combine(folder, file)).FirstOrDefault(File.Exists);

    /// <summary>Whether TorchSharp is used from where NuGet unpacked it: <c>torchsharp/VERSION/lib/FRAMEWORK</c>.</summary>
    private static bool IsPackageFolder(string? folder) => folder?.Split(Path.DirectorySeparatorChar) is [.., "torchsharp", _, "lib", _];

    private static string Listed(IReadOnlyList<string> folders) =>
        string.Join(", ", folders.Take(4).Select(folder => $"'{folder}'")) + (folders.Count > 4 ? ", ..." : "");

    private const string Platforms = "TorchSharp 0.107 supports 64-bit x86 on Linux and Windows, and Apple silicon.";

    private static string SystemHint(string problem) =>
        problem.Contains("GLIBC_", StringComparison.Ordinal) || problem.Contains("GLIBCXX_", StringComparison.Ordinal)
            ? "The system's C or C++ library is too old: libtorch 2.10 needs glibc 2.28 and the libstdc++ of GCC 8 or later."
        : problem.Contains("ld-linux", StringComparison.Ordinal)
        || problem.Contains("libc.musl", StringComparison.Ordinal)
        || RuntimeInformation.RuntimeIdentifier.Contains("musl", StringComparison.Ordinal)
            ? "libtorch needs glibc; systems with musl, such as Alpine Linux, cannot load it."
        : problem.Contains("undefined symbol", StringComparison.Ordinal)
            ? "The libtorch that was found is not the version that TorchSharp was built for: reference TorchSharp-cpu of the same version as TorchSharp."
        : problem.Contains("cannot open shared object file", StringComparison.Ordinal)
            ? "Install the system library that is named, or check that all of libtorch's files were copied."
        : Platforms;
}
