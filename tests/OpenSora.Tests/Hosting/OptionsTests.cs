using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Runtime;
using OpenSora.Tests.Generation;
using OpenSora.Training.Stages;

namespace OpenSora.Tests.Hosting;

public class OptionsTests
{
    private static IConfiguration Configuration(params (string Key, string Value)[] values) =>
        new ConfigurationBuilder().AddInMemoryCollection(values.Select(v => KeyValuePair.Create(v.Key, (string?)v.Value))).Build();

    private static OpenSoraOptions Options(IServiceProvider services) => services.GetRequiredService<IOptions<OpenSoraOptions>>().Value;

    [Fact]
    public void Nothing_set_is_valid_and_leaves_everything_to_the_model()
    {
        using var services = new ServiceCollection().AddOpenSora().Services.BuildServiceProvider();
        var options = Options(services);
        foreach (var property in typeof(OpenSoraOptions).GetProperties().Where(p => p.PropertyType != typeof(bool)))
        {
            property.GetValue(options).ShouldBeNull(property.Name);
        }

        services.GetRequiredService<VideoGenerator>().ShouldBeSameAs(services.GetRequiredService<VideoGenerator>());
        services.GetRequiredService<VideoReader>().ShouldNotBeNull();
    }

    [Fact]
    public void Both_builders_set_the_same_options()
    {
        using var other = new TinyModel();
        using var services = new ServiceCollection()
            .AddOpenSora()
            .UseModel(other.Path)
            .UseBackend("cpu")
            .UseSampler(SamplerKind.Ddim)
            .Configure(options => options.Steps = 3)
            .Services.BuildServiceProvider();

        var options = Options(services);

        (options.Model, options.Backend, options.Sampler, options.Steps).ShouldBe((other.Path, "cpu", SamplerKind.Ddim, 3));
        using var generator = VideoGenerator.Create().UseBackend("cpu").UseSampler(SamplerKind.Ddim).Configure(o => o.Steps = 3).Build();
    }

    [Fact]
    public async Task An_application_replaces_the_generator_in_its_tests()
    {
        using var services = new ServiceCollection().AddSingleton<IVideoGenerator, Gray>().AddOpenSora().Services.BuildServiceProvider();

        var video = await services.GetRequiredService<IVideoGenerator>().Request("a goat").Seed(5).GenerateAsync();

        (video.Frames.Count, video.Seed, video.Prompt).ShouldBe((1, 5, "a goat"));
        using var plain = new ServiceCollection().AddOpenSora().Services.BuildServiceProvider();
        plain.GetRequiredService<IVideoGenerator>().ShouldBeSameAs(plain.GetRequiredService<VideoGenerator>());
    }

    private sealed class Gray : IVideoGenerator
    {
        public Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) => Task.CompletedTask;

        public Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default) => throw new NotSupportedException();

        public Task<GeneratedVideo> GenerateAsync(
            VideoRequest request,
            IProgress<GenerationProgress>? progress = null,
            CancellationToken cancellationToken = default
        )
        {
            var frames = new VideoFrames(new byte[12], 1, 2, 2, 8);
            return Task.FromResult(new GeneratedVideo(frames) { Prompt = request.Prompt, Seed = request.Seed ?? 0 });
        }
    }

    [Fact]
    public void Configuration_is_read_and_code_has_the_last_word()
    {
        using var services = new ServiceCollection()
            .AddSingleton(
                Configuration(
                    ("OpenSora:Steps", "12"),
                    ("OpenSora:GuidanceScale", "4.5"),
                    ("OpenSora:Backend", "cpu"),
                    ("OpenSora:Sampler", "DpmSolver"),
                    ("OpenSora:Precision", "BFloat16"),
                    ("Other:Key", "x")
                )
            )
            .AddOpenSora(o => o.GuidanceScale = 6)
            .Services.BuildServiceProvider();
        var options = Options(services);
        (options.Steps, options.GuidanceScale, options.Backend).ShouldBe((12, 6.0, "cpu"));
        (options.Sampler, options.Precision).ShouldBe((SamplerKind.DpmSolver, TorchSharp.torch.ScalarType.BFloat16));
    }

    [Fact]
    public void A_section_of_another_name_can_be_given()
    {
        var configuration = Configuration(("Video:Frames", "8"));
        using var services = new ServiceCollection().AddOpenSora(configuration.GetSection("Video")).Services.BuildServiceProvider();
        Options(services).Frames.ShouldBe(8);
    }

    [Fact]
    public void All_problems_of_the_configuration_are_reported_together()
    {
        using var services = new ServiceCollection()
            .AddSingleton(
                Configuration(
                    ("OpenSora:Stepz", "12"),
                    ("OpenSora:Sampler", "euler"),
                    ("OpenSora:Precision", "half"),
                    ("OpenSora:Frames", "many"),
                    ("OpenSora:TextEncoderResidency", "maybe"),
                    ("OpenSora:GuidanceScale", "high"),
                    ("OpenSora:Seed:Value", "1"),
                    ("OpenSora:Width", "4096"),
                    ("OpenSora:Height", "128"),
                    ("OpenSora:Steps", "0")
                )
            )
            .AddOpenSora()
            .Services.BuildServiceProvider();

        var failures = Should.Throw<OptionsValidationException>(services.GetRequiredService<IStartupValidator>().Validate).Failures.ToList();

        string[] expected =
        [
            "OpenSora:Stepz is not an option. The options are AutoencoderResidency, Backend, DecodeMemory, FFmpegFolder, Frames",
            "OpenSora:Sampler is 'euler'; it must be one of Iddpm, Ddim, DpmSolver, RectifiedFlow.",
            "OpenSora:Precision is 'half'; it must be one of Float32, BFloat16, Float16.",
            "OpenSora:Frames is 'many'; it must be a whole number.",
            "OpenSora:TextEncoderResidency is 'maybe'; it must be one of Keep, Release, Stream.",
            "OpenSora:GuidanceScale is 'high'; it must be a number.",
            "OpenSora:Seed is a section; it must be a single value.",
            "OpenSora:Steps is 0; it must be from 1 to 1000",
            "OpenSora:Width is 4096; ",
        ];
        foreach (var part in expected)
        {
            failures.ShouldContain(failure => failure.StartsWith(part, StringComparison.Ordinal), part);
        }

        failures.Count.ShouldBe(expected.Length);
    }

    [Fact]
    public void The_model_is_checked_at_start_up()
    {
        Failures(o => o.Model = "/not/there").ShouldContain("OpenSora:Model is '/not/there': ");
        Failures(o => o.Sampler = SamplerKind.RectifiedFlow).ShouldContain("trained with a different diffusion process; use ");
        Failures(o => o.Frames = 999).ShouldContain("OpenSora:Frames is 999; ");

        using var folder = new TemporaryFolder();
        File.Copy(Path.Combine(ModelFolder.Open("stickers").Path, "model.json"), folder["model.json"]);
        Failures(o => o.Model = folder.Path).ShouldContain("the file 'denoiser.safetensors' that it names does not exist");

        static string Failures(Action<OpenSoraOptions> mistake)
        {
            using var services = new ServiceCollection().AddOpenSora(mistake).Services.BuildServiceProvider();
            return Should.Throw<OptionsValidationException>(services.GetRequiredService<IStartupValidator>().Validate).Message;
        }
    }

    public static TheoryData<Action<OpenSoraOptions>, string> Mistakes =>
        new()
        {
            { o => o.Steps = 0, "OpenSora:Steps is 0; it must be from 1 to 1000" },
            { o => o.Steps = 1001, "OpenSora:Steps is 1001" },
            { o => o.GuidanceScale = double.NaN, "OpenSora:GuidanceScale is NaN" },
            { o => o.GuidanceScale = -1, "OpenSora:GuidanceScale is -1" },
            { o => o.Frames = 0, "OpenSora:Frames is 0" },
            { o => o.FramesPerSecond = 0, "OpenSora:FramesPerSecond is 0" },
            { o => o.Width = 128, "OpenSora:Width and Height must be set together" },
            { o => o.Sampler = (SamplerKind)9, "OpenSora:Sampler is '9'; it must be one of Iddpm, Ddim, DpmSolver" },
            { o => o.Precision = TorchSharp.torch.ScalarType.Int8, "OpenSora:Precision is Int8" },
            { o => o.Backend = "metal", "OpenSora:Backend: There is no backend 'metal'" },
            { o => o.Model = " ", "OpenSora:Model is empty" },
            { o => o.FFmpegFolder = "/not/there", "OpenSora:FFmpegFolder is '/not/there'" },
            { o => o.FFmpegFolder = "/", "OpenSora:FFmpegFolder is '/', but this folder does not contain ffmpeg" },
        };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public void Mistakes_are_reported_at_start_up(Action<OpenSoraOptions> mistake, string message)
    {
        using var services = new ServiceCollection().AddOpenSora(mistake).Services.BuildServiceProvider();
        var validate = Should.Throw<OptionsValidationException>(services.GetRequiredService<IStartupValidator>().Validate);
        validate.Failures.Count().ShouldBe(1);
        validate.Message.ShouldContain(message);

        if (!message.Contains("Backend", StringComparison.Ordinal)) // without a container that is another exception
        {
            Should.Throw<OptionsValidationException>(() => VideoGenerator.Create().Configure(mistake).Build()).Message.ShouldContain(message);
        }
    }

    [Fact]
    public void All_mistakes_are_reported_at_once()
    {
        var e = Should.Throw<OptionsValidationException>(() => VideoGenerator.Create().Configure(o => (o.Steps, o.Frames) = (0, 0)).Build());
        e.Message.ShouldContain("Steps is 0");
        e.Message.ShouldContain("Frames is 0");
    }

    [Fact]
    public void A_backend_that_cannot_be_used_is_reported_when_the_generator_is_built()
    {
        Should.Throw<OptionsValidationException>(() => VideoGenerator.Create().UseBackend("metal").Build()).Message.ShouldContain("'metal'");
        Should
            .Throw<OptionsValidationException>(() => VideoGenerator.Create().UseBackend(new FakeBackend("gone", 1, "it was sold.")).Build())
            .Message.ShouldContain("it was sold");
    }

    [Fact]
    public void Added_twice_it_is_one_generator()
    {
        var collection = new ServiceCollection();
        var first = collection.AddOpenSora(o => o.Steps = 3);
        var second = collection.AddOpenSora(o => o.Frames = 5);
        second.Services.ShouldBeSameAs(first.Services);
        using var services = collection.BuildServiceProvider();
        services.GetServices<VideoGenerator>().Count().ShouldBe(1);
        (Options(services).Steps, Options(services).Frames).ShouldBe((3, 5));
    }

    [Fact]
    public void A_second_registration_keeps_what_was_set_and_added_in_code()
    {
        var collection = new ServiceCollection().AddSingleton(Configuration(("OpenSora:Steps", "50"), ("OpenSora:Frames", "7")));
        collection.AddOpenSora(o => o.Steps = 20).AddBackend(new FakeBackend("cpu", 5));
        collection.AddOpenSora();
        using var services = collection.BuildServiceProvider();
        (Options(services).Steps, Options(services).Frames).ShouldBe((20, 7));
        services.GetRequiredService<BackendSelector>().Select("cpu").ShouldBeOfType<FakeBackend>();
    }

    [Fact]
    public void The_section_of_training_is_left_to_training()
    {
        using var services = new ServiceCollection()
            .AddSingleton(Configuration(("OpenSora:Steps", "12"), ("OpenSora:Training:Checkpoints:Folder", "run")))
            .AddOpenSora()
            .Services.BuildServiceProvider();
        Options(services).Steps.ShouldBe(12);
        using var misspelt = new ServiceCollection()
            .AddSingleton(Configuration(("OpenSora:Stepz", "12"), ("OpenSora:Training:Checkpoints:Folder", "run")))
            .AddOpenSora()
            .Services.BuildServiceProvider();
        Should.Throw<OptionsValidationException>(() => Options(misspelt)).Message.ShouldContain("Stepz");
    }
}
