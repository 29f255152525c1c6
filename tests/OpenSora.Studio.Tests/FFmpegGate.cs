namespace OpenSora.Studio.Tests;

/// <summary>An ffmpeg that waits until the gate is opened, so that no job of a process can finish before that, however fast or slow the
/// machine is. If the process is killed, its waiting ffmpeg ends.</summary>
internal sealed class FFmpegGate
{
    private readonly string _closed;

    /// <param name="folder">An existing folder, which gets a new folder for the gate.</param>
    public FFmpegGate(string folder)
    {
        Folder = Directory.CreateDirectory(Path.Combine(folder, "gate")).FullName;
        _closed = Path.Combine(Folder, "closed");
        File.WriteAllText(_closed, "");
        var program = (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator)
            .Select(each => Path.Combine(each, "ffmpeg"))
            .First(File.Exists);
        var script = Path.Combine(Folder, "ffmpeg");
        File.WriteAllText(
            script,
            $"""
            #!/bin/sh
            while [ -e '{_closed}' ]; do
              kill -0 $PPID 2> /dev/null || exit 1
              sleep 0.05
            done
            exec '{program}' "$@"

            """
        );
        if (!OperatingSystem.IsWindows()) // where the tests that use it are skipped
        {
            File.SetUnixFileMode(script, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    /// <summary>Gets the folder that must be the first one of PATH.</summary>
    public string Folder { get; }

    public void Open() => File.Delete(_closed);
}
