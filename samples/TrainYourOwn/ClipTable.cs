using OpenSora.Media;

namespace OpenSora.Samples;

/// <summary>The clips of a folder as a CSV of paths and captions, the form in which the library reads them.</summary>
internal static class ClipTable
{
    private static readonly string[] Extensions = [".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif"];

    /// <summary>The folder's own <c>captions.csv</c> (columns <c>path,caption</c>), or one that is written beside the results, with captions made of the files'
    /// names: <c>a-red-ball_2.mp4</c> shows "a red ball". Correct it and start again, if a name says too little.</summary>
    public static string For(string folder, string output)
    {
        var own = Path.Combine(folder, "captions.csv");
        if (File.Exists(own))
            return own;
        var files = Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)
            .Where(file => Extensions.Contains(Path.GetExtension(file), StringComparer.OrdinalIgnoreCase)).Order(StringComparer.Ordinal).ToArray();
        if (files.Length == 0)
            throw new InvalidDataException($"'{folder}' holds no clips ({string.Join(", ", Extensions)}) and no captions.csv.");
        var table = Path.Combine(Directory.CreateDirectory(output).FullName, "captions.csv");
        if (!File.Exists(table))
            File.WriteAllLines(table, files.Select(file => $"{Quoted(Path.GetFullPath(file))},{Quoted(Caption(file))}").Prepend("path,caption"));
        return table;
    }

    /// <summary>The finest tenth of the clips, one at least: those with the most pixels a second.</summary>
    public static async Task<int[]> FinestAsync(IReadOnlyList<string> files, CancellationToken cancellationToken)
    {
        var reader = new VideoReader();
        var detail = new double[files.Count];
        for (var i = 0; i < files.Count; i++)
        {
            var info = await reader.ProbeAsync(files[i], cancellationToken);
            detail[i] = info.Width * info.Height * info.FramesPerSecond;
        }
        return [.. Enumerable.Range(0, files.Count).OrderByDescending(i => detail[i]).Take(Math.Max(1, files.Count / 10))];
    }

    private static string Caption(string file) => Path.GetFileNameWithoutExtension(file).Replace('-', ' ').Replace('_', ' ').TrimEnd(' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9');

    private static string Quoted(string text) => $"\"{text.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";
}
