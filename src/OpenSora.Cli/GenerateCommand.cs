using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using OpenSora.Generation;
using OpenSora.Media;
using TorchSharp;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora generate</c>.</summary>
internal static class GenerateCommand
{
    private static readonly Argument<string> s_prompt = new("prompt")
    {
        Description = "The description of the video. \"\" generates without a prompt.",
    };

    private static readonly Option<string> s_output = new("--out", "-o")
    {
        DefaultValueFactory = _ => "video.mp4",
        Description =
            "The output: a file that ends in .mp4 or .gif, a file that ends in .png or .jpg for an image or a contact sheet of the frames, "
            + "or a folder, which must be empty, for one PNG file for each frame. An existing file is replaced.",
    };

    private static readonly Option<int?> s_frames = new("--frames") { Description = "The number of frames; 1 for an image." };

    private static readonly Option<(int Width, int Height)?> s_size = new("--size")
    {
        HelpName = "WIDTHxHEIGHT",
        CustomParser = ParseSize,
        Description = "The size in pixels, such as 512x512.",
    };

    private static readonly Option<int?> s_steps = new("--steps") { Description = "The number of denoising steps." };
    private static readonly Option<double?> s_guidance = new("--guidance") { Description = "The guidance scale; 1 for no guidance." };
    private static readonly Option<string?> s_negative = new("--negative") { Description = "The description of what the video should not show." };
    private static readonly Option<long?> s_seed = new("--seed") { Description = "The seed. The same seed and settings give the same video." };
    private static readonly Option<double?> s_rate = new("--fps") { Description = "The frame rate in frames per second." };

    private static readonly Option<int> s_count = new("--count")
    {
        DefaultValueFactory = _ => 1,
        Description = "The number of videos, with consecutive seeds. Their names are numbered: video-1.mp4, video-2.mp4 and so on.",
    };

    private static readonly Option<(int Frame, string Text)[]> s_images = new("--image")
    {
        HelpName = "[FRAME:]FILE",
        CustomParser = result => ParseNumbered(result, numberRequired: false),
        Description =
            "An image or a video that the generated video contains from a frame on (default 0; -1 is the last frame), for models "
            + "that were trained with conditioning frames. Can be repeated.",
    };

    private static readonly Option<string?> s_edit = new("--edit") { HelpName = "FILE", Description = "A video or an image to change." };

    private static readonly Option<double?> s_strength = new("--strength")
    {
        Description = "The amount of change with --edit, from above 0 to 1. The default is 0.6, or 1 with --mask.",
    };

    private static readonly Option<string?> s_mask = new("--mask")
    {
        HelpName = "FILE",
        Description = "A mask for --edit: white is generated, black is kept.",
    };

    private static readonly Option<int?> s_window = new("--window") { Description = "The number of frames to denoise at a time, for long videos." };
    private static readonly Option<int?> s_overlap = new("--overlap") { Description = "The number of frames that windows have in common." };

    private static readonly Option<(int Frame, string Text)[]> s_segments = new("--segment")
    {
        HelpName = "FRAME:PROMPT",
        CustomParser = result => ParseNumbered(result, numberRequired: true),
        Description = "A prompt that applies from a frame on, such as \"24:a sheep\". Can be repeated.",
    };

    private static readonly Option<bool> s_weights = new("--weights") { Description = "Read weights in prompts, such as (words:1.4)." };

    private static readonly Option<int?> s_preview = new("--preview-every")
    {
        HelpName = "STEPS",
        Description = "Write a preview next to the output at intervals, such as video-preview.png.",
    };

    internal static Command Create()
    {
        s_count.Validators.Add(result =>
        {
            if (result.Tokens.Count > 0 && result.GetValueOrDefault<int>() < 1)
            {
                result.AddError("--count must be at least 1.");
            }
        });
        var command = new Command("generate", "Generates a video from text.")
        {
            s_prompt,
            s_output,
            ModelOptions.Model,
            s_frames,
            s_size,
            s_steps,
            s_guidance,
            s_negative,
            s_seed,
            s_rate,
            s_count,
            s_images,
            s_edit,
            s_strength,
            s_mask,
            s_window,
            s_overlap,
            s_segments,
            s_weights,
            s_preview,
            ModelOptions.Backend,
            ModelOptions.Precision,
            CommandLine.Json,
        };
        command.Validators.Add(result =>
        {
            if (result.GetResult(s_edit) is null && (result.GetResult(s_mask) ?? result.GetResult(s_strength)) is not null)
            {
                result.AddError("--mask and --strength require --edit.");
            }
        });
        command.SetAction(Terminal.Action(RunAsync));
        return command;
    }

    private static async Task<int> RunAsync(ParseResult arguments, Terminal terminal, CancellationToken cancellationToken)
    {
        var count = arguments.GetValue(s_count);
        var output = VideoOutput.Of(arguments.GetValue(s_output)!, count);
        output.Check();
        var request = await CreateRequestAsync(arguments, cancellationToken).ConfigureAwait(false);
        using var generator = ModelOptions.Build(arguments);
        List<(GeneratedVideo Video, string File)> videos = [];
        await terminal
            .WithProgressAsync(async stages =>
            {
                var previews = new PreviewFiles(output.Preview, stages);
                await using (previews.ConfigureAwait(false))
                {
                    var progress = new Reporter(stages, previews, count);
                    await foreach (var video in generator.GenerateManyAsync(request, count, progress, cancellationToken).ConfigureAwait(false))
                    {
                        var file = output.FileOf(videos.Count);
                        await output.WriteAsync(video.Frames, file, cancellationToken).ConfigureAwait(false);
                        videos.Add((video, file));
                        progress.Video++;
                    }

                    return true;
                }
            })
            .ConfigureAwait(false);
        foreach (var warning in videos.SelectMany(each => each.Video.Warnings).Distinct(StringComparer.Ordinal))
        {
            await terminal.Error.WriteLineAsync($"Warning: {warning}").ConfigureAwait(false);
        }

        Print(terminal, videos);
        return CommandLine.Success;
    }

    private static async Task<VideoRequest> CreateRequestAsync(ParseResult arguments, CancellationToken cancellationToken)
    {
        var size = arguments.GetValue(s_size);
        var request = new VideoRequest
        {
            Prompt = arguments.GetValue(s_prompt)!,
            NegativePrompt = arguments.GetValue(s_negative),
            Frames = arguments.GetValue(s_frames),
            Width = size?.Width,
            Height = size?.Height,
            Steps = arguments.GetValue(s_steps),
            GuidanceScale = arguments.GetValue(s_guidance),
            Seed = arguments.GetValue(s_seed),
            FramesPerSecond = arguments.GetValue(s_rate),
            WindowFrames = arguments.GetValue(s_window),
            WindowOverlap = arguments.GetValue(s_overlap),
            PromptWeighting = arguments.GetValue(s_weights) ? true : null,
            PreviewEvery = arguments.GetValue(s_preview),
            Segments = [.. (arguments.GetValue(s_segments) ?? []).Select(segment => new PromptSegment(segment.Frame, segment.Text))],
        };
        foreach (var (frame, file) in arguments.GetValue(s_images) ?? [])
        {
            request.ConditionOn(await ReadAsync(file).ConfigureAwait(false), frame);
        }

        if (arguments.GetValue(s_edit) is not { } edit)
        {
            return request;
        }

        var (video, strength) = (await ReadAsync(edit).ConfigureAwait(false), arguments.GetValue(s_strength));
        return arguments.GetValue(s_mask) is { } mask
            ? request.Inpaint(video, await ReadAsync(mask).ConfigureAwait(false), strength ?? 1)
            : request.EditVideo(video, strength ?? 0.6);

        Task<VideoFrames> ReadAsync(string file) => new VideoReader().ReadAsync(file, new ClipOptions { Frames = request.Frames }, cancellationToken);
    }

    private static void Print(Terminal terminal, List<(GeneratedVideo Video, string File)> videos)
    {
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    Videos = videos.Select(each => new
                    {
                        each.File,
                        each.Video.Prompt,
                        each.Video.NegativePrompt,
                        each.Video.Seed,
                        each.Video.Steps,
                        each.Video.GuidanceScale,
                        each.Video.Sampler,
                        each.Video.Model,
                        each.Video.Backend,
                        Frames = each.Video.Frames.Count,
                        each.Video.Frames.Width,
                        each.Video.Frames.Height,
                        each.Video.Frames.FramesPerSecond,
                        Seconds = each.Video.Elapsed.TotalSeconds,
                        each.Video.Warnings,
                    }),
                }
            );
            return;
        }

        foreach (var (video, file) in videos)
        {
            var frames = video.Frames;
            terminal.Output.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{file}: seed {video.Seed}, {frames.Count} frames of {frames.Width}x{frames.Height} at {frames.FramesPerSecond:0.##} fps, "
                )
                    + string.Create(
                        CultureInfo.InvariantCulture,
                        $"{video.Steps} steps of {video.Sampler}, guidance {video.GuidanceScale:0.##}, {video.Model} on {video.Backend}, "
                    )
                    + string.Create(CultureInfo.InvariantCulture, $"{video.Elapsed.TotalSeconds:F1} s")
            );
        }
    }

    internal static (int Width, int Height)? ParseSize(ArgumentResult result)
    {
        var parts = result.Tokens[0].Value.Split('x', 'X');
        if (
            parts.Length == 2
            && int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out var width)
            && int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var height)
        )
        {
            return (width, height);
        }

        result.AddError($"--size is '{result.Tokens[0].Value}'; it must be a width and a height in pixels, such as 512x512.");
        return null;
    }

    // FRAME:TEXT; without a frame, the frame is 0.
    private static (int Frame, string Text)[] ParseNumbered(ArgumentResult result, bool numberRequired)
    {
        List<(int, string)> all = [];
        foreach (var text in result.Tokens.Select(token => token.Value))
        {
            var colon = text.IndexOf(':', StringComparison.Ordinal);
            if (colon > 0 && int.TryParse(text[..colon], NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var frame))
            {
                all.Add((frame, text[(colon + 1)..].Trim()));
            }
            else if (numberRequired)
            {
                result.AddError($"--segment is '{text}'; it must be a frame and a prompt, such as \"24:a sheep\".");
            }
            else
            {
                all.Add((0, text));
            }
        }

        return [.. all];
    }

    private sealed class Reporter(Stages stages, PreviewFiles previews, int count) : IProgress<GenerationProgress>
    {
        public int Video { get; set; }

        public void Report(GenerationProgress value)
        {
            var stage = value.Stage switch
            {
                GenerationStage.EncodingText => "Encoding the prompt",
                GenerationStage.EncodingReferences => "Encoding the input",
                _ => $"{value.Stage}",
            };
            if (value.Stage != GenerationStage.Waiting)
            {
                stages.Report(count > 1 && value.Stage != GenerationStage.Loading ? $"{stage} {Video + 1}/{count}" : stage, value.Step, value.Steps);
            }

            if (value.Preview is { } preview)
            {
                previews.Add(preview);
            }
        }
    }
}

/// <summary>The options of commands that load a model.</summary>
internal static class ModelOptions
{
    public static readonly Option<string> Model = new("--model", "-m")
    {
        DefaultValueFactory = _ => OpenSoraOptions.DefaultModel,
        Description = "The name of a model or the path of a model folder.",
    };

    public static readonly Option<string?> Backend = new("--backend")
    {
        Description = "The backend: cpu or cuda. The default is the best that is available; 'opensora diagnose' lists them.",
    };

    public static readonly Option<string?> Precision = CreatePrecision();

    /// <summary>Creates the generator that the options describe.</summary>
    public static VideoGenerator Build(ParseResult arguments) =>
        VideoGenerator
            .Create()
            .Configure(options =>
            {
                options.Model = arguments.GetValue(Model);
                options.Backend = arguments.GetValue(Backend);
                options.Precision = PrecisionOf(arguments);
            })
            .Build();

    private static torch.ScalarType? PrecisionOf(ParseResult arguments) =>
        arguments.GetValue(Precision) is { } name ? Enum.Parse<torch.ScalarType>(name, ignoreCase: true) : null;

    private static Option<string?> CreatePrecision()
    {
        var option = new Option<string?>("--precision")
        {
            Description = "The data type of large matrix multiplications. The default is float32; bfloat16 is faster on processors that support it.",
        };
        option.AcceptOnlyFromAmong("float32", "bfloat16", "float16");
        return option;
    }
}
