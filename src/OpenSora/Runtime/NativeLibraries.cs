using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using System.Security.Cryptography;
using TorchSharp;

namespace OpenSora.Runtime;

/// <summary>Loads TorchSharp's native library if the default loader cannot, and reports a clear error if it cannot be loaded at all.</summary>
/// <remarks>
/// <para><c>libLibTorchSharp.so</c> requires the libstdc++ of GCC 13, although it does not use any of its new functions. On older Linux systems, a
/// copy without this requirement is loaded instead (<see cref="ElfVersionNeeds"/>). If the original can be loaded, this code does not run.</para>
/// <para>The handler must be registered before the first call to TorchSharp. There are two triggers: the runtime runs <see cref="StartupHook"/>
/// before <c>Main</c> (as configured by buildTransitive/OpenSora.Lib.targets), and the first use of any type of this assembly runs the module
/// initializer.</para>
/// </remarks>
internal static class NativeLibraries
{
    private const string TorchSharpLibrary = "LibTorchSharp";

    private static readonly Lock Gate = new();
    private static bool _registered;
    private static DllNotFoundException? _failure;

#pragma warning disable CA2255 // This code must run before the first call to TorchSharp.
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

    /// <summary>Resolves a library that the runtime could not load.</summary>
    /// <remarks>TorchSharp first tries to load its library. If that fails, it copies every native library that it can find and prints about a
    /// hundred lines. To prevent this, the trial returns the handle of the main program, and the first native call throws an exception with the
    /// reason.</remarks>
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
                return IntPtr.Zero; // in notebooks, TorchSharp collects the libraries from the package folders
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

    /// <summary>Loads libtorch and then TorchSharp's native library.</summary>
    /// <param name="folders">The folders to search for the application's native libraries.</param>
    /// <exception cref="DllNotFoundException">A file is missing or cannot be loaded; the message explains how to resolve it.</exception>
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
                $"libtorch is missing: {FileName("torch_cpu")} is not in {Listed(folders)}. "
                    + (
                        LibTorchPackage.IsSearched
                            ? $"Run 'opensora setup' to download it, or set {LibTorchPackage.FolderVariable} to a folder with libtorch."
                            : "Reference the package TorchSharp-cpu, or TorchSharp-cuda-linux or TorchSharp-cuda-windows for NVIDIA GPUs, "
                                + "in the project of the application."
                    )
            );
        }

        // Load libtorch by absolute path before the library that depends on it, so that a system-wide libtorch is not used instead.
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

    /// <summary>Writes a library to a file and loads it. The file is in the user's cache folder, or in a temporary folder if the cache folder cannot
    /// be written to or loaded from.</summary>
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
            // The cache folder cannot be written to: use a temporary folder.
        }

        var temporary = Directory.CreateTempSubdirectory("opensora-"); // only the current user can write to this folder
        try
        {
            return TryLoad(PatchedLibraryCache.Write(temporary.FullName, name, contents), out handle, out problem);
        }
        finally
        {
            temporary.Delete(recursive: true); // the library stays loaded
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

    /// <summary>Returns the folders that the runtime searches for the application's native libraries.</summary>
    private static List<string> SearchFolders()
    {
        var folders = (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "")
            .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .ToList();
        folders.Add(AppContext.BaseDirectory);
        folders.Add(Path.Combine(AppContext.BaseDirectory, "runtimes", LibTorchPackage.Platform, "native"));
        if (LibTorchPackage.IsSearched)
        {
            folders.AddRange(LibTorchPackage.Folders);
        }
        return [.. folders.Select(folder => Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder))).Distinct(StringComparer.Ordinal)];
    }

    private static string FileName(string library) =>
        OperatingSystem.IsWindows() ? library + ".dll"
        : OperatingSystem.IsMacOS() ? $"lib{library}.dylib"
        : $"lib{library}.so";

    private static string? Find(IReadOnlyList<string> folders, string file) =>
        folders.Select(folder => Path.Combine(folder, file)).FirstOrDefault(File.Exists);

    /// <summary>Determines whether a folder is inside an extracted NuGet package: <c>torchsharp/VERSION/lib/FRAMEWORK</c>.</summary>
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
            ? "TorchSharp was built for a different version of libtorch: reference TorchSharp-cpu in the same version as TorchSharp."
        : problem.Contains("cannot open shared object file", StringComparison.Ordinal)
            ? "Install the missing system library, or check that all files of libtorch were copied."
        : Platforms;
}
