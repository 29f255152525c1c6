using System.Diagnostics;
using System.Text.Json.Nodes;
using OpenSora.ModelFolders;

namespace OpenSora.Training.Tests;

/// <summary>Runs the C# blocks of Markdown pages in a separate process, because they change the current folder and leave tensors behind.</summary>
internal static class SnippetRun
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    /// <summary>Compiles and runs blocks, one after the other, each in an empty folder. By default, the bundled model generates four frames in one
    /// step for them, to save time.</summary>
    /// <returns>The exception of each block by its name; empty for a block that ended without one.</returns>
    public static async Task<IReadOnlyDictionary<string, string>> RunAsync(IReadOnlyList<Snippet> snippets)
    {
        using var folder = new TemporaryFolder();
        using var models = new TemporaryFolder();
        CopyBundledModel(models["stickers"]);
        foreach (var (i, snippet) in snippets.Index())
        {
            var program = Path.Combine(folder.Path, $"{FileName(i)}.dll");
            if (!snippet.Emit(program))
            {
                File.Delete(program);
                File.WriteAllText(Path.ChangeExtension(program, "result"), "The block does not compile.");
            }
        }

        var output = await RunAsync(folder.Path, models.Path);
        return snippets
            .Index()
            .ToDictionary(
                item => item.Item.Name,
                item =>
                    Path.Combine(folder.Path, $"{FileName(item.Index)}.result") is var result && File.Exists(result)
                        ? File.ReadAllText(result)
                        : $"The process ended before this block, or within it:\n{output}",
                StringComparer.Ordinal
            );
    }

    private static void CopyBundledModel(string target)
    {
        Directory.CreateDirectory(target);
        foreach (var file in Directory.EnumerateFiles(ModelFolder.Open("stickers").Path))
        {
            File.Copy(file, Path.Combine(target, Path.GetFileName(file)));
        }

        var json = Path.Combine(target, ModelFolder.FileName);
        var description = JsonNode.Parse(File.ReadAllText(json))!;
        (description["video"]!["frames"], description["sampling"]!["steps"]) = (4, 1);
        File.WriteAllText(json, description.ToJsonString());
    }

    private static string FileName(int i) => $"Snippet{i + 1:000}";

    private static async Task<string> RunAsync(string folder, string models)
    {
        using var process = Process.Start(
            new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "OpenSora.Snippets.dll"), folder])
            {
                UseShellExecute = false,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                Environment = { ["OPENSORA_MODELS"] = models, ["OMP_NUM_THREADS"] = "1" }, // one thread: other tests run at the same time
            }
        )!;
        var (output, errors) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        using var limit = new CancellationTokenSource(Limit);
        try
        {
            await process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
        }
        return await output + await errors;
    }
}
