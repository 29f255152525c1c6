using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Options;
using OpenSora.Extensions.AI;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Tests.Generation;

namespace OpenSora.Tests.ExtensionsAI;

public class CachingTests
{
    private readonly MemoryDistributedCache _cache = new(Options.Create(new MemoryDistributedCacheOptions()));

    [Fact]
    public async Task A_repeated_request_is_answered_from_the_cache_with_the_same_video()
    {
        var fake = new FakeGenerator();
        using var services = new ServiceCollection().AddSingleton<IDistributedCache>(_cache).BuildServiceProvider();
        var pipeline = fake.AsBuilder().UseDistributedCache().Build(services);
        var request = new VideoRequest
        {
            Prompt = "eine Ziege ü",
            NegativePrompt = "blurry",
            Seed = 7,
            FramesPerSecond = 12.5,
            Steps = 3,
        };

        var first = await pipeline.GenerateAsync(request);
        var second = await pipeline.GenerateAsync(request.Clone());

        fake.Requests.Count.ShouldBe(1);
        second.ShouldNotBeSameAs(first);
        second.Frames.Pixels.ToArray().ShouldBe(first.Frames.Pixels.ToArray());
        foreach (
            var property in typeof(GeneratedVideo)
                .GetProperties()
                .Where(p => p.Name is not (nameof(GeneratedVideo.Frames) or nameof(GeneratedVideo.Warnings)))
        )
        {
            property.GetValue(second).ShouldBe(property.GetValue(first), property.Name);
        }

        second.Warnings.ShouldBe(["first", "second"]);
        foreach (var property in typeof(VideoFrames).GetProperties().Where(p => p.Name is not nameof(VideoFrames.Pixels)))
        {
            property.GetValue(second.Frames).ShouldBe(property.GetValue(first.Frames), property.Name);
        }
    }

    [Fact]
    public async Task Any_change_of_the_request_is_another_video()
    {
        var fake = new FakeGenerator();
        var pipeline = fake.AsBuilder().UseDistributedCache(_cache).Build();
        var image = new VideoFrames(new byte[12], 1, 2, 2, 8);
        var changedPixel = new VideoFrames(new byte[] { 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, 1, 2, 2, 8);
        Action<VideoRequest>[] changes =
        [
            _ => { },
            r => r.Prompt = "b",
            r => r.NegativePrompt = "",
            r => r.NegativePrompt = "c",
            r => r.Seed = 8,
            r => r.Frames = 1,
            r => (r.Width, r.Height) = (8, 2),
            r => (r.Width, r.Height) = (2, 8),
            r => r.Steps = 1,
            r => r.GuidanceScale = 1,
            r => r.FramesPerSecond = 1,
            r => r.ConditionOn(image),
            r => r.ConditionOn(changedPixel),
            r => r.ConditionOn(image, 1),
            r => r.ConditionOn(image, editRatio: 0.5),
        ];
        for (var round = 0; round < 2; round++)
        {
            foreach (var change in changes)
            {
                var request = new VideoRequest { Prompt = "a", Seed = 7 };
                change(request);
                await pipeline.GenerateAsync(request);
            }
        }

        fake.Requests.Count.ShouldBe(changes.Length);
    }

    [Fact]
    public async Task Random_videos_are_not_cached()
    {
        var fake = new FakeGenerator();
        var pipeline = fake.AsBuilder().UseDistributedCache(_cache).Build();
        await pipeline.Request("a").GenerateAsync();
        await pipeline.Request("a").GenerateAsync();
        fake.Requests.Count.ShouldBe(2);
    }

    [Fact]
    public async Task Additional_values_separate_what_the_request_does_not_say()
    {
        var fake = new FakeGenerator();
        foreach (var style in new[] { "oil", "ink", "oil" })
        {
            var pipeline = fake.AsBuilder().UseDistributedCache(_cache, c => c.CacheKeyAdditionalValues = [style]).Build();
            await pipeline.Request("a").Seed(1).GenerateAsync();
        }

        fake.Requests.Count.ShouldBe(2);
    }

    [Fact]
    public async Task The_key_contains_the_settings_that_options_and_model_provide()
    {
        using var model = new TinyModel();
        await Generated(model, "first", 1);
        await Generated(model, "repeated", 0);
        await Generated(model, "the defaults of the model", 0, request: r => (r.Steps, r.Frames, r.Width, r.Height) = (4, 4, 32, 32));
        await Generated(model, "the same as an option", 0, options: o => o.Steps = 4);
        await Generated(model, "another option", 1, options: o => o.Steps = 2);
        await Generated(model, "the other option in the request", 0, request: r => r.Steps = 2);
        await Generated(model, "another sampler", 1, options: o => o.Sampler = SamplerKind.Ddim);
        await Generated(model, "another precision", 1, options: o => o.Precision = TorchSharp.torch.ScalarType.BFloat16);
        await Generated(model, "the seed in the options", 0, options: o => o.Seed = 7, request: r => r.Seed = null);
    }

    [Fact]
    public async Task Other_weights_under_the_same_name_are_another_model()
    {
        using var model = new TinyModel();
        await Generated(model, "first", 1);
        using var trained = new TinyModel(spread: 0.11);
        await Generated(trained, "other weights", 1);
        using var copy = new TemporaryFolder();
        foreach (var file in Directory.GetFiles(model.Path))
        {
            File.Copy(file, copy[Path.GetFileName(file)]);
        }

        await Generated(model, "the same model in another folder", 0, options: o => o.Model = copy.Path);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(20)]
    [InlineData(-1)]
    [InlineData(-2)]
    public async Task A_damaged_entry_is_generated_again(int length)
    {
        var fake = new FakeGenerator();
        var damaging = new DamagingCache(_cache, length);
        var pipeline = fake.AsBuilder().UseDistributedCache(damaging).Build();
        var first = await pipeline.Request("a").Seed(1).GenerateAsync();
        var second = await pipeline.Request("a").Seed(1).GenerateAsync();
        fake.Requests.Count.ShouldBe(2);
        second.Frames.Pixels.ToArray().ShouldBe(first.Frames.Pixels.ToArray());
    }

    [Fact]
    public async Task Failures_and_canceled_requests_are_not_stored()
    {
        var fails = true;
        var fake = new FakeGenerator(_ => fails ? new InvalidOperationException("broken") : null);
        var pipeline = fake.AsBuilder().UseDistributedCache(_cache).Build();
        await Should.ThrowAsync<InvalidOperationException>(pipeline.Request("a").Seed(1).GenerateAsync());
        fails = false;
        await pipeline.Request("a").Seed(1).GenerateAsync();
        fake.Requests.Count.ShouldBe(2);
        await Should.ThrowAsync<OperationCanceledException>(
            pipeline.Request("a").Seed(1).GenerateAsync(cancellationToken: new CancellationToken(canceled: true))
        );
    }

    // Generates with a new generator, and compares the number of videos that it had to generate.
    private async Task Generated(
        TinyModel model,
        string what,
        int expected,
        Action<OpenSoraOptions>? options = null,
        Action<VideoRequest>? request = null
    )
    {
        using var generator = model.Builder().Configure(options ?? (_ => { })).Build();
        List<string> notes = [];
        var pipeline = generator.AsBuilder().UseDistributedCache(_cache).Use(inner => new Noting(inner, "", notes)).Build();
        var asked = new VideoRequest { Prompt = "a goat", Seed = 7 };
        request?.Invoke(asked);
        var video = await pipeline.GenerateAsync(asked);
        (notes.Count / 2).ShouldBe(expected, what);
        video.Model.ShouldBe(TinyModel.Name);
        using var gif = new MemoryStream();
        await video.SaveGifAsync(gif);
        gif.Length.ShouldBeGreaterThan(0);
    }

    // Returns the beginning of entries; with -1 a changed last byte, with -2 another first byte.
    private sealed class DamagingCache(IDistributedCache inner, int length) : IDistributedCache
    {
        public async Task<byte[]?> GetAsync(string key, CancellationToken token = default)
        {
            if (await inner.GetAsync(key, token) is not { } bytes)
            {
                return null;
            }

            if (length >= 0)
            {
                return bytes[..length];
            }

            var copy = bytes.ToArray();
            copy[length == -1 ? ^1 : 0] ^= 1;
            return copy;
        }

        public Task SetAsync(string key, byte[] value, DistributedCacheEntryOptions options, CancellationToken token = default) =>
            inner.SetAsync(key, value, options, token);

        public byte[]? Get(string key) => throw new NotSupportedException();

        public void Set(string key, byte[] value, DistributedCacheEntryOptions options) => throw new NotSupportedException();

        public void Refresh(string key) => throw new NotSupportedException();

        public Task RefreshAsync(string key, CancellationToken token = default) => throw new NotSupportedException();

        public void Remove(string key) => throw new NotSupportedException();

        public Task RemoveAsync(string key, CancellationToken token = default) => throw new NotSupportedException();
    }
}
