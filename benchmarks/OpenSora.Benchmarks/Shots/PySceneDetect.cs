using System.Diagnostics;
using System.Text.Json;

namespace OpenSora.Benchmarks.Shots;

/// <summary>Runs PySceneDetect, if it is there, with the settings of this library's detectors.</summary>
internal sealed class PySceneDetect
{
    private const string Script = """
        import json, sys, time
        sys.path.insert(0, sys.argv[1])
        from scenedetect import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector, SceneManager, ThresholdDetector, open_video
        detectors = dict(content=ContentDetector, adaptive=AdaptiveDetector, threshold=ThresholdDetector)
        detectors.update(histogram=HistogramDetector, hash=HashDetector)
        for name in sys.argv[2].split(","):
            for path in sys.argv[3:]:
                manager = SceneManager()
                manager.add_detector(detectors[name](min_scene_len="0.6s"))
                manager.detect_scenes(open_video(path))
                scenes = manager.get_scene_list(start_in_scene=True)
                print(json.dumps(dict(path=path, detector=name, cuts=[start.frame_num for start, _ in scenes[1:]])), flush=True)
        """;

    private PySceneDetect(string folder) => Folder = folder;

    private string Folder { get; }

    private static string Python => Environment.GetEnvironmentVariable("OPENSORA_BENCH_PYTHON") ?? "python3";

    /// <summary>Gets PySceneDetect from the folder that the environment variable names; null, and a message, if there is none.</summary>
    internal static PySceneDetect? Find()
    {
        var folder = Environment.GetEnvironmentVariable("OPENSORA_BENCH_PYSCENEDETECT");
        if (folder is not null && Directory.Exists(Path.Combine(folder, "scenedetect")))
        {
            return new(folder);
        }

        Console.WriteLine(
            "Not compared with PySceneDetect: set OPENSORA_BENCH_PYSCENEDETECT to a folder with its sources, which has the folder 'scenedetect', "
                + "and OPENSORA_BENCH_PYTHON to a Python that has OpenCV, click, platformdirs and tqdm.\n"
        );
        return null;
    }

    internal (string Program, string[] Arguments) Command(string detectors, params IEnumerable<string> paths) =>
        (Python, ["-c", Script, Folder, detectors, .. paths]);

    /// <summary>Finds the boundaries in videos.</summary>
    internal IReadOnlyDictionary<(string Path, string Detector), int[]> Cuts(IEnumerable<string> paths)
    {
        var (program, arguments) = Command("content,adaptive,threshold,histogram,hash", paths);
        using var python = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, UseShellExecute = false })!;
        Dictionary<(string, string), int[]> cuts = [];
        while (python.StandardOutput.ReadLine() is { } line)
        {
            var found = JsonSerializer.Deserialize<Found>(line, JsonSerializerOptions.Web)!;
            cuts[(found.Path, found.Detector)] = found.Cuts;
        }

        python.WaitForExit();
        return python.ExitCode == 0 ? cuts : throw new InvalidOperationException("PySceneDetect failed.");
    }

    private sealed record Found(string Path, string Detector, int[] Cuts);
}
