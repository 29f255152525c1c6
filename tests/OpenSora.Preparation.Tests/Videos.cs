using System.Diagnostics;

namespace OpenSora.Preparation.Tests;

/// <summary>Makes videos for tests with ffmpeg.</summary>
internal static class Videos
{
    /// <summary>Runs ffmpeg with arguments that end in the path of the output, and returns that path.</summary>
    internal static async Task<string> MakeAsync(params string[] arguments)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(arguments[^1]))!);
        using var process = Process.Start(
            new ProcessStartInfo("ffmpeg", ["-v", "error", "-nostdin", "-y", .. arguments]) { RedirectStandardError = true, UseShellExecute = false }
        )!;
        var errors = await process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        process.ExitCode.ShouldBe(0, errors);
        return arguments[^1];
    }
}

/// <summary>A temporary folder that is deleted with its contents.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("opensora-preparation-").FullName;

    /// <summary>Gets the path of a file in the folder.</summary>
    public string this[string name] => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
