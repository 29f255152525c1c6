using System.CommandLine;
using System.Globalization;
using Microsoft.Extensions.AI;
using OllamaSharp;
using OpenAI;
using OpenSora.Preparation;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Shots;
using Spectre.Console;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora prepare</c>.</summary>
internal static class PrepareCommand
{
    private static readonly Argument<string> s_input = new("folder") { Description = "The folder with the videos. Subfolders are included." };

    private static readonly Option<string> s_output = new("--out")
    {
        Required = true,
        Description = "The folder for the clips and the manifest. A run that was stopped continues.",
    };

    private static readonly Option<string> s_detector = new("--detector")
    {
        DefaultValueFactory = _ => "default",
        Description = "The shot detector.",
    };

    private static readonly Option<double?> s_rate = new("--fps") { Description = "The frame rate of the clips. The default is that of each video." };
    private static readonly Option<int?> s_side = new("--short-side") { Description = "The shorter side of the clips in pixels." };
    private static readonly Option<double> s_shortest = new("--min-seconds") { DefaultValueFactory = _ => 1, Description = "The minimum length." };
    private static readonly Option<double> s_longest = new("--max-seconds") { DefaultValueFactory = _ => 5, Description = "The maximum length." };

    private static readonly Option<string[]> s_filters = new("--where")
    {
        Description = "A condition that clips must meet, such as \"motion > 0.5 && text_area < 0.1\". Can be repeated.",
    };

    private static readonly Option<bool> s_duplicates = new("--keep-duplicates") { Description = "Keep clips that look almost the same." };

    private static readonly Option<string[]> s_captions = new("--captions")
    {
        Description = "Where captions are from: sidecar, subtitles, ollama or openai. The first that has one for a clip is used. Can be repeated.",
        AllowMultipleArgumentsPerToken = true,
    };

    private static readonly Option<string> s_model = new("--model")
    {
        DefaultValueFactory = _ => "llava",
        Description = "The model that describes clips for ollama and openai.",
    };

    private static readonly Option<string?> s_endpoint = new("--endpoint")
    {
        Description = "The address of the server for ollama (default http://localhost:11434) or openai.",
    };

    private static readonly Option<string> s_key = new("--api-key-variable")
    {
        DefaultValueFactory = _ => "OPENAI_API_KEY",
        Description = "The environment variable with the API key for openai.",
    };

    private static readonly Option<int> s_requests = new("--requests")
    {
        DefaultValueFactory = _ => 8,
        Description = "The number of concurrent requests.",
    };
    private static readonly Option<bool> s_parquet = new("--parquet") { Description = "Also write the manifest as Parquet." };
    private static readonly Option<int?> s_processors = new("--processors") { Description = "The number of processors to use. The default is all." };
    private static readonly Option<bool> s_restart = new("--restart") { Description = "Delete what an earlier run prepared in the output folder." };

    private static readonly Dictionary<string, IShotDetector> s_detectors = new(StringComparer.Ordinal)
    {
        ["default"] = new TransitionDetector(),
        ["content"] = new ContentDetector(),
        ["adaptive"] = new AdaptiveDetector(),
        ["threshold"] = new ThresholdDetector(),
        ["histogram"] = new HistogramDetector(),
        ["hash"] = new HashDetector(),
    };

    internal static Command Create()
    {
        s_detector.AcceptOnlyFromAmong([.. s_detectors.Keys]);
        s_captions.AcceptOnlyFromAmong("sidecar", "subtitles", "ollama", "openai");
        var command = new Command("prepare", "Turns long videos into captioned clips for training, with a manifest.")
        {
            s_input,
            s_output,
            s_detector,
            s_rate,
            s_side,
            s_shortest,
            s_longest,
            s_filters,
            s_duplicates,
            s_captions,
            s_model,
            s_endpoint,
            s_key,
            s_requests,
            s_parquet,
            s_processors,
            s_restart,
            CommandLine.Json,
        };
        command.SetAction(Terminal.Action(RunAsync, "Stopped. The same command continues."));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        List<IDisposable> disposables = [];
        try
        {
            var builder = VideoPreparation
                .Create()
                .From(arguments.GetValue(s_input)!)
                .To(arguments.GetValue(s_output)!)
                .DetectShots(s_detectors[arguments.GetValue(s_detector)!])
                .Configure(options =>
                {
                    options.Cut.FramesPerSecond = arguments.GetValue(s_rate);
                    options.Cut.ShortSide = arguments.GetValue(s_side);
                    options.Cut.MinLength = TimeSpan.FromSeconds(arguments.GetValue(s_shortest));
                    options.Cut.MaxLength = TimeSpan.FromSeconds(arguments.GetValue(s_longest));
                    options.DropDuplicates = !arguments.GetValue(s_duplicates);
                    options.WriteParquet = arguments.GetValue(s_parquet);
                    options.Processors = arguments.GetValue(s_processors);
                    options.Restart = arguments.GetValue(s_restart);
                });
            foreach (var filter in arguments.GetValue(s_filters) ?? [])
            {
                builder.Where(filter);
            }

            if (arguments.GetValue(s_captions) is { Length: > 0 } captions)
            {
                builder.CaptionWith(CombinedCaptioner.FirstOf([.. captions.Select(name => CreateCaptioner(name, arguments, disposables))]));
            }

            var report = await terminal
                .WithProgressAsync(stages => builder.Build().RunAsync(new Reporter(stages), cancellationToken))
                .ConfigureAwait(false);
            if (terminal.IsJson)
            {
                terminal.WriteJson(
                    new
                    {
                        report.Manifest,
                        report.Statistics,
                        report.Sources,
                        report.Shots,
                        report.Clips,
                        report.Kept,
                        report.Dropped,
                        DroppedSources = report.DroppedSources.Select(each => new { each.Source, each.Message }),
                        PassedOver = report.PassedOver.Select(each => new { each.Path, each.Reason }),
                    }
                );
            }
            else
            {
                Print(terminal.CreateConsole(), report);
            }

            return CommandLine.Success;
        }
        finally
        {
            disposables.Reverse();
            disposables.ForEach(each => each.Dispose());
        }
    }

    private static ICaptioner CreateCaptioner(string name, ParseResult arguments, List<IDisposable> disposables)
    {
        if (name is "sidecar")
        {
            return new SidecarCaptioner();
        }

        if (name is "subtitles")
        {
            return new SubtitleCaptioner();
        }

        var (address, model) = (arguments.GetValue(s_endpoint), arguments.GetValue(s_model)!);
        if (!Uri.TryCreate(address, UriKind.Absolute, out var endpoint) && address is not null)
        {
            throw new IOException($"--endpoint is '{address}'; it must be an address such as http://localhost:11434.");
        }

        var http = Added(ChatStatusHandler.CreateClient(name is "ollama" ? endpoint ?? new Uri("http://localhost:11434") : null));
        var client = name is "ollama" ? Added<IChatClient>(new OllamaApiClient(http, model)) : Added(OpenAIClient(http, endpoint, model));
        Directory.CreateDirectory(arguments.GetValue(s_output)!);
        var cache = Added(new CaptionCache(Path.Combine(arguments.GetValue(s_output)!, "captions.db")));
        return Added(new ChatCaptioner(client, new() { Model = model, MaxConcurrentRequests = arguments.GetValue(s_requests) }, cache));

        T Added<T>(T disposable)
            where T : IDisposable
        {
            disposables.Add(disposable);
            return disposable;
        }

        IChatClient OpenAIClient(HttpClient client, Uri? server, string chosen)
        {
            var variable = arguments.GetValue(s_key)!;
            var key = Environment.GetEnvironmentVariable(variable);
            if (string.IsNullOrEmpty(key) && server is null)
            {
                throw new IOException(
                    $"The environment variable {variable} is not set. Set it to the API key, or specify the server with --endpoint."
                );
            }

            return new OpenAIClient(
                new System.ClientModel.ApiKeyCredential(string.IsNullOrEmpty(key) ? "none" : key),
                new()
                {
                    Endpoint = server,
                    Transport = new System.ClientModel.Primitives.HttpClientPipelineTransport(client),
                    RetryPolicy = new System.ClientModel.Primitives.ClientRetryPolicy(0), // the captioner retries
                    NetworkTimeout = Timeout.InfiniteTimeSpan,
                }
            ).GetChatClient(chosen).AsIChatClient();
        }
    }

    private static void Print(IAnsiConsole console, PreparationReport report)
    {
        if (report.Dropped.Count > 0)
        {
            var table = new Table().AddColumns("Dropped by", "Reason").AddColumn(new TableColumn("Count").RightAligned());
            foreach (var (stage, reason, count) in report.Dropped)
            {
                table.AddRow(
                    new Spectre.Console.Text(stage),
                    new Spectre.Console.Text(reason),
                    new Spectre.Console.Text(count.ToString(CultureInfo.InvariantCulture))
                );
            }

            console.Write(table);
        }

        foreach (var (path, reason) in report.PassedOver)
        {
            console.WriteLine($"Not used: {path}: {reason}");
        }

        foreach (var (_, message) in report.DroppedSources)
        {
            console.WriteLine($"Dropped: {message}");
        }

        console.WriteLine($"{report.Sources} videos, {report.Shots} shots, {report.Clips} clips, {report.Kept} in the manifest.");
        console.WriteLine($"Manifest: {report.Manifest}");
        console.WriteLine($"Statistics: {report.Statistics}");
    }

    private sealed class Reporter(Stages stages) : IProgress<PreparationProgress>
    {
        public void Report(PreparationProgress value)
        {
            var dropped = value.Dropped > 0 ? string.Create(CultureInfo.InvariantCulture, $", {value.Dropped} dropped") : "";
            stages.Report(
                $"{value.Stage}",
                value.Done + value.Dropped,
                value.Total,
                string.Create(CultureInfo.InvariantCulture, $"{value.Done:F1} of {value.Total}{dropped}")
            );
        }
    }
}
