using System.CommandLine;
using OpenSora.ModelFolders;
using Spectre.Console;

namespace OpenSora.Cli;

/// <summary>The commands <c>opensora models list</c>, <c>download</c> and <c>verify</c>.</summary>
internal static class ModelsCommand
{
    private static readonly Argument<string> s_name = new("name")
    {
        Description = "The name of a published model or part; 'models list' lists them.",
    };

    private static readonly Option<string?> s_output = new("--out", "-o")
    {
        Description = "The folder of the model. The default is the name of the model in the folder 'models'.",
    };

    private static readonly Option<bool> s_yes = new("--yes", "-y") { Description = "Download without asking." };
    private static readonly Option<bool> s_dryRun = new("--dry-run") { Description = "Show what would be downloaded, and download nothing." };

    private static readonly Option<bool> s_copy = new("--copy")
    {
        Description = "Copy the files into the model folder. By default, the folder has symbolic links to the files in the cache of the hub.",
    };

    private static readonly Option<string> s_revision = new("--revision")
    {
        DefaultValueFactory = _ => "main",
        Description = "The branch, tag or commit of the repositories.",
    };

    private static readonly Option<string?> s_endpoint = new("--endpoint")
    {
        HelpName = "URL",
        Description = "The address of the model hub or of a mirror. The default is the environment variable HF_ENDPOINT.",
    };

    private static readonly Option<string?> s_cache = new("--cache")
    {
        HelpName = "FOLDER",
        Description = "The cache of the hub. The default is that of the hub's Python tools, which HF_HUB_CACHE or HF_HOME can set.",
    };

    private static readonly Argument<string> s_folder = new("folder") { Description = "A model folder, or the folder of a downloaded part." };

    internal static Command Create()
    {
        s_name.CompletionSources.Add(_ =>
            Catalog.Entries.Select(entry => entry.Name).Select(name => new System.CommandLine.Completions.CompletionItem(name))
        );
        var list = new Command("list", "Lists the models on this machine and the published models that can be downloaded.") { CommandLine.Json };
        list.SetAction(Terminal.Action((_, terminal, _) => Task.FromResult(List(terminal))));

        var download = new Command("download", "Downloads a published model, checks the files, and makes a model folder of them.")
        {
            s_name,
            s_output,
            s_yes,
            s_dryRun,
            s_copy,
            s_revision,
            s_endpoint,
            s_cache,
            CommandLine.Json,
        };
        download.SetAction(Terminal.Action(DownloadAsync, "Stopped. The same command continues the download."));

        var verify = new Command("verify", "Checks the files of a model: their hashes if they are known, and that every tensor fits.")
        {
            s_folder,
            CommandLine.Json,
        };
        verify.SetAction(Terminal.Action((arguments, terminal, token) => ModelVerification.RunAsync(arguments.GetValue(s_folder)!, terminal, token)));
        return new Command("models", "Lists, downloads and verifies models.") { list, download, verify };
    }

    /// <summary>Finds the model folders in the folders of models.</summary>
    internal static IEnumerable<(string Name, string Path)> Local() =>
        ModelFolder
            .SearchFolders.SelectMany(Directory.GetDirectories)
            .Where(folder => File.Exists(Path.Combine(folder, ModelFolder.FileName)))
            .Select(folder => (Path.GetFileName(folder), folder))
            .DistinctBy(model => model.Item1, StringComparer.Ordinal)
            .OrderBy(model => model.Item1, StringComparer.Ordinal);

    private static int List(Terminal terminal)
    {
        var local = Local().ToList();
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    Local = local.Select(model => new { model.Name, model.Path }),
                    Published = Catalog.Entries.Select(entry => new
                    {
                        entry.Name,
                        entry.Kind,
                        entry.Title,
                        entry.Problem,
                        Sources = entry.Sources.Select(source => new
                        {
                            source.Repository,
                            source.License,
                            Files = source.Include,
                        }),
                    }),
                }
            );
            return CommandLine.Success;
        }

        var console = terminal.CreateConsole();
        console.MarkupLine("[bold]On this machine[/]");
        if (local.Count == 0)
        {
            console.WriteLine($"none; models are searched in folders named 'models' and in those that {ModelFolder.Variable} lists");
        }

        foreach (var (name, path) in local)
        {
            console.WriteLine($"{name}: {path}");
        }

        console.WriteLine();
        console.MarkupLine("[bold]Published[/] (opensora models download NAME)");
        var table = new Table().Border(TableBorder.Simple).AddColumns("name", "kind", "description", "license");
        foreach (var entry in Catalog.Entries)
        {
            var licenses = string.Join(", ", entry.Sources.Select(source => source.License).Distinct(StringComparer.Ordinal));
            table.AddRow(Terminal.Escaped(entry.Name), entry.Kind, Terminal.Escaped(entry.Problem ?? entry.Title), Terminal.Escaped(licenses));
        }

        console.Write(table);
        console.WriteLine("Licenses are those that the publishers state; read them before you use a model.");
        return CommandLine.Success;
    }

    private static async Task<int> DownloadAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        var entry = Catalog.Find(arguments.GetValue(s_name)!);
        if (entry.Problem is { } problem)
        {
            terminal.Fail(problem);
            return CommandLine.Failure;
        }

        var folder = Path.GetFullPath(arguments.GetValue(s_output) ?? Path.Combine("models", entry.Name));
        using var download = new ModelDownload(
            entry,
            folder,
            new ModelHubOptions { Endpoint = arguments.GetValue(s_endpoint), CacheFolder = arguments.GetValue(s_cache) },
            arguments.GetValue(s_revision)!,
            arguments.GetValue(s_copy)
        );
        await download.ListAsync(cancellationToken).ConfigureAwait(false);
        var isDryRun = arguments.GetValue(s_dryRun);
        await ShowAsync(entry, download, terminal.IsJson || !isDryRun ? terminal.Error : terminal.Output).ConfigureAwait(false);
        download.CheckSpace();
        if (isDryRun)
        {
            if (terminal.IsJson)
            {
                terminal.WriteJson(Document(entry, download, isComplete: false));
            }

            return CommandLine.Success;
        }

        if (!arguments.GetValue(s_yes))
        {
            if (!terminal.CanAsk)
            {
                terminal.Fail("Nothing was downloaded. Run the command with --yes to download without a question.");
                return CommandLine.Failure;
            }

            if (!await terminal.ConfirmAsync("Download?", cancellationToken).ConfigureAwait(false))
            {
                terminal.Fail("Nothing was downloaded.");
                return CommandLine.Failure;
            }
        }

        await terminal
            .WithProgressAsync(async stages =>
            {
                await download.RunAsync(stages, cancellationToken).ConfigureAwait(false);
                return true;
            })
            .ConfigureAwait(false);
        if (terminal.IsJson)
        {
            terminal.WriteJson(Document(entry, download, isComplete: true));
        }
        else
        {
            terminal.Output.WriteLine($"{entry.Name}: {folder}");
        }

        return CommandLine.Success;
    }

    private static async Task ShowAsync(CatalogEntry entry, ModelDownload download, TextWriter output)
    {
        await output.WriteLineAsync($"{entry.Title}").ConfigureAwait(false);
        foreach (var (source, commit, files) in download.Files)
        {
            await output.WriteLineAsync($"{source.Repository} at {commit[..10]}, license {source.License}").ConfigureAwait(false);
            foreach (var file in files)
            {
                var size = file.Size is { } bytes ? Terminal.Bytes(bytes) : "unknown size";
                await output.WriteLineAsync($"  {file.Path}  {size}{(file.IsDownloaded ? "  (in the cache)" : "")}").ConfigureAwait(false);
            }
        }

        var free = download.FreeSpace is { } space ? Terminal.Bytes(space) : "unknown";
        await output
            .WriteLineAsync(
                $"To download: {Terminal.Bytes(download.Missing)} of {Terminal.Bytes(download.Total)}. "
                    + $"Cache: {Terminal.Shortened(download.CacheFolder)}, {free} free."
            )
            .ConfigureAwait(false);
        await output
            .WriteLineAsync($"Model folder: {Terminal.Shortened(download.Folder)}, {(download.Copies ? "copies" : "links to the cache")}.")
            .ConfigureAwait(false);
    }

    private static object Document(CatalogEntry entry, ModelDownload download, bool isComplete) =>
        new
        {
            entry.Name,
            download.Folder,
            IsComplete = isComplete,
            download.Total,
            download.Missing,
            download.FreeSpace,
            Files = download.Files.SelectMany(
                source => source.Files,
                (source, file) =>
                    new
                    {
                        source.Source.Repository,
                        source.Commit,
                        file.Path,
                        file.Size,
                        file.Hash,
                        source.Source.License,
                    }
            ),
        };
}
