namespace OpenSora.Tests;

/// <summary>A folder for one test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("opensora-").FullName;

    public string this[string name] => System.IO.Path.Combine(Path, name);

    public string[] Entries =>
        [.. Directory.EnumerateFileSystemEntries(Path).Select(e => System.IO.Path.GetFileName(e)!).Order(StringComparer.Ordinal)];

    /// <summary>Creates a folder in which ffmpeg is a shell script and <c>$FFMPEG</c> is the real program. ffprobe is the real program.</summary>
    /// <remarks>FFMpegCore asks ffmpeg for its version first; the script passes this call to the real program.</remarks>
    public string WithFFmpegScript(string script)
    {
        var folder = Directory.CreateDirectory(this["bin"]).FullName;
        Write("ffmpeg", $"#!/bin/sh\nFFMPEG=$(command -v ffmpeg)\n[ \"$1\" = -version ] && exec $FFMPEG -version\n{script}\n");
        Write("ffprobe", "#!/bin/sh\nexec ffprobe \"$@\"\n");
        return folder;

        void Write(string name, string text)
        {
            var file = System.IO.Path.Combine(folder, name);
            File.WriteAllText(file, text);
            if (!OperatingSystem.IsWindows())
            {
                File.SetUnixFileMode(file, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            }
        }
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
