using System.Runtime.InteropServices;

namespace OpenSora.Runtime;

/// <summary>Finds libtorch outside the folder of the program, for programs that do not contain it, such as the command <c>opensora</c>.</summary>
/// <remarks>Such a program sets the runtime option <c>OpenSora.FindLibTorch</c> in its project. Other programs find only the libtorch that they
/// reference.</remarks>
internal static class LibTorchPackage
{
    /// <summary>The environment variable with the path of a folder that contains libtorch.</summary>
    internal const string FolderVariable = "OPENSORA_LIBTORCH";

    /// <summary>The version of libtorch that TorchSharp was built for.</summary>
    internal const string Version = "2.10.0";

    /// <summary>Gets a value that indicates whether this program searches for libtorch outside its folder.</summary>
    internal static bool IsSearched => AppContext.TryGetSwitch("OpenSora.FindLibTorch", out var enabled) && enabled;

    /// <summary>Gets the portable runtime identifier of this platform, such as <c>linux-x64</c>.</summary>
    internal static string Platform =>
        (
            OperatingSystem.IsWindows() ? "win-"
            : OperatingSystem.IsMacOS() ? "osx-"
            : "linux-"
        ) + (RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "arm64" : "x64");

    /// <summary>Gets the name of the NuGet package with libtorch for this platform.</summary>
    internal static string Name => $"libtorch-cpu-{Platform}";

    /// <summary>Gets NuGet's folder of extracted packages.</summary>
    internal static string PackagesFolder =>
        Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } folder
            ? folder
            : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");

    /// <summary>Gets the folder with the native libraries of the extracted package.</summary>
    internal static string NativeFolder => Path.Combine(PackagesFolder, Name, Version, "runtimes", Platform, "native");

    /// <summary>Gets the folders to search: the one of the environment variable, or else the one of the package.</summary>
    internal static IEnumerable<string> Folders =>
        [Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } folder ? folder : NativeFolder];
}
