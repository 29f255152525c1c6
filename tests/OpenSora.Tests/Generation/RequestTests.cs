using System.Reflection;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>What wraps a generator needs: copies, complete requests and hashes of requests, and services.</summary>
public class RequestTests
{
    private static readonly VideoFrames Image = new(new byte[12], 1, 2, 2, 8);

    // Kept until the process ends, so that counts of live tensors in other tests do not change.
    private static readonly Tensor Zeros = zeros(1, 2, 3).DetachFromDisposeScope();
    private static readonly Tensor Ones = ones(1, 2, 3).DetachFromDisposeScope();
    private static readonly TextStates Encoded = new(Zeros, Ones);

    private static VideoRequest Full() =>
        new VideoRequest
        {
            Prompt = "a",
            NegativePrompt = "b",
            Frames = 2,
            Width = 3,
            Height = 4,
            Steps = 5,
            GuidanceScale = 6,
            FramesPerSecond = 7,
            Seed = 8,
            WindowFrames = 9,
            WindowOverlap = 2,
            PromptWeighting = true,
            PreviewEvery = 3,
            Segments = [new(1, "c")],
            PromptStates = Encoded,
            NegativePromptStates = Encoded,
        }
            .ConditionOn(Image)
            .Inpaint(Image, Image);

    // A property that is added to requests must be added to the hash; otherwise this test fails.
    [Fact]
    public void Every_property_changes_the_hash()
    {
        var start = Full().ComputeHash();
        start.ShouldBe(Full().ComputeHash());
        start.Length.ShouldBe(64);
        var properties = typeof(VideoRequest).GetProperties(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic);
        properties.Length.ShouldBeGreaterThanOrEqualTo(11);
        foreach (var property in properties)
        {
            var request = Full();
            if (property.Name is nameof(VideoRequest.PreviewEvery)) // previews do not change the video
            {
                request.PreviewEvery = 1;
                request.ComputeHash().ShouldBe(start);
                continue;
            }

            property.SetValue(request, Other(property.GetValue(request)!));
            request.ComputeHash().ShouldNotBe(start, property.Name);
            if (property.Name is not (nameof(VideoRequest.Prompt) or nameof(VideoRequest.Segments) or "References" or "MaskStrategies"))
            {
                property.SetValue(request, null);
                request.ComputeHash().ShouldNotBe(start, property.Name);
            }
        }

        static object Other(object value) =>
            value switch
            {
                string text => text + "x",
                int number => number + 1,
                long number => number + 1,
                double number => number + 0.5,
                bool on => !on,
                IReadOnlyList<PromptSegment> => new PromptSegment[] { new(1, "d") },
                TextStates states => states with { States = Ones },
                VideoEdit edit => edit with { Strength = 0.5 },
                IReadOnlyList<VideoFrames> => new[] { Image, Image },
                IReadOnlyList<MaskStrategy> => new[] { new MaskStrategy { TargetStart = 1 } },
                _ => throw new NotSupportedException($"Add {value.GetType()} to the hash of requests and to this test."),
            };
    }

    [Fact]
    public void Copies_are_independent_and_complete()
    {
        var (request, copy) = (Full(), Full().Clone());
        copy.ComputeHash().ShouldBe(request.ComputeHash());
        copy.Prompt = "other";
        copy.ConditionOn(Image, 1);
        request.ComputeHash().ShouldBe(Full().ComputeHash());
        new GenerationSettings { Seed = 3 }
            .Clone()
            .Seed.ShouldBe(3);
        new OpenSoraOptions { Model = "m", Seed = 3 }
            .Clone()
            .Model.ShouldBe("m");
    }

    [Fact]
    public void Defaults_fill_what_a_request_does_not_set()
    {
        var defaults = Full();
        new VideoRequest
        {
            Prompt = "a",
            Segments = defaults.Segments,
            PromptStates = Encoded,
            NegativePromptStates = Encoded,
        }
            .ConditionOn(Image)
            .Inpaint(Image, Image)
            .WithDefaults(defaults)
            .ComputeHash()
            .ShouldBe(defaults.ComputeHash());
        var request = new VideoRequest { Steps = 1 };
        (request.WithDefaults(defaults).Steps, request.WithDefaults(defaults).Seed).ShouldBe((1, 8));
        request.Seed.ShouldBeNull();
    }

    [Fact]
    public async Task A_prompt_and_settings_are_a_request()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        var video = await generator.GenerateAsync("a goat", new GenerationSettings { Frames = 1, Seed = 5 });
        (video.Prompt, video.Seed, video.Frames.Count).ShouldBe(("a goat", 5, 1));
        (await generator.GenerateAsync("a goat")).Frames.Count.ShouldBe(4);
    }

    [Fact]
    public void A_generator_describes_itself_without_loading_its_model()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().Configure(o => (o.Steps, o.Sampler) = (9, SamplerKind.Ddim)).Build();
        var loaded = HashTextEncoder.Alive;
        generator.GetService<VideoGenerator>().ShouldBeSameAs(generator);
        generator.GetService<IVideoGenerator>().ShouldBeSameAs(generator);
        generator.GetService<ModelFolder>()!.Path.ShouldBe(model.Path);
        generator.GetService<ModelDescription>()!.Name.ShouldBe(TinyModel.Name);
        generator.GetService<IComputeBackend>()!.Name.ShouldBe("cpu");
        generator.GetService<VideoWriter>().ShouldNotBeNull();
        var settings = generator.GetService<GenerationSettings>()!;
        (settings.Steps, settings.Frames, settings.Width, settings.GuidanceScale, settings.Seed).ShouldBe((9, 4, 32, 3, null));
        generator.GetService<OpenSoraOptions>()!.Sampler.ShouldBe(SamplerKind.Ddim);
        generator.GetService<OpenSoraOptions>()!.Steps = 1; // a copy
        generator.GetService<GenerationSettings>()!.Steps.ShouldBe(9);
        generator.GetService<Uri>().ShouldBeNull();
        generator.GetService<VideoGenerator>("key").ShouldBeNull();
        Should.Throw<ArgumentNullException>(() => generator.GetService(null!));
        HashTextEncoder.Alive.ShouldBe(loaded);
    }
}
