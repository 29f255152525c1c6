using System.Drawing;
using Microsoft.Extensions.AI;
using OpenSora.Extensions.AI;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using OpenSora.Tests.Generation;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Tests.ExtensionsAI;

/// <summary>The contract of <see cref="IImageGenerator"/> and its options.</summary>
public class ImageGeneratorTests
{
    [Fact]
    public async Task Null_arguments_are_refused()
    {
        using var images = new FakeGenerator().AsImageGenerator();
        await Should.ThrowAsync<ArgumentNullException>(() => images.GenerateAsync(null!));
        await Should.ThrowAsync<ArgumentNullException>(async () => await images.GenerateImagesAsync(null!));
        Should.Throw<ArgumentNullException>(() => images.GetService(null!));
        Should.Throw<ArgumentNullException>(() => ((IVideoGenerator)null!).AsImageGenerator());
    }

    [Fact]
    public void Services_are_the_metadata_the_generators_and_what_they_offer()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        using var images = generator.AsImageGenerator();
        images.GetService<IImageGenerator>().ShouldBeSameAs(images);
        images.GetService<IVideoGenerator>().ShouldBeSameAs(generator);
        images.GetRequiredService<ModelDescription>().Name.ShouldBe("tiny");
        images.GetService<Uri>().ShouldBeNull();
        var metadata = images.GetRequiredService<ImageGeneratorMetadata>();
        (metadata.ProviderName, metadata.ProviderUri, metadata.DefaultModelId).ShouldBe(("opensora", null, "tiny"));

        using var keyed = new FakeGenerator().AsImageGenerator();
        keyed.GetService<IImageGenerator>("x").ShouldBeNull(); // a key is not the image generator's
        keyed.GetService(typeof(string), "x").ShouldBe("keyed x");
    }

    [Fact]
    public async Task An_image_of_a_prompt_is_one_frame_as_PNG()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        using var images = generator.AsImageGenerator();
        var options = new ImageGenerationOptions { RawRepresentationFactory = _ => new VideoRequest { Seed = 7, Steps = 2 } };

        var response = await images.GenerateImagesAsync("a goat", options);

        var content = response.Contents.ShouldHaveSingleItem().ShouldBeOfType<DataContent>();
        content.MediaType.ShouldBe("image/png");
        var expected = await generator.Request("a goat").Frames(1).Seed(7).Steps(2).GenerateAsync();
        Pixels(content).ShouldBe(expected.Frames.Pixels.ToArray());
        response
            .Usage!.AdditionalCounts!.ToDictionary()
            .ShouldBe(
                new Dictionary<string, long>
                {
                    ["frames"] = 1,
                    ["pixels"] = 32 * 32,
                    ["steps"] = 2,
                },
                ignoreOrder: true
            );
        response.RawRepresentation.ShouldBeOfType<List<GeneratedVideo>>().Single().Seed.ShouldBe(7);
    }

    [Theory]
    [InlineData(16, 48, 16, 48)]
    [InlineData(17, 23, 16, 24)] // steps of 4 from 8 to 64
    [InlineData(1024, 1, 64, 8)]
    public async Task The_nearest_size_of_the_model_is_used(int width, int height, int expectedWidth, int expectedHeight)
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        using var images = generator.AsImageGenerator();
        var response = await images.GenerateImagesAsync("a goat", new ImageGenerationOptions { ImageSize = new Size(width, height) });
        var image = ((List<GeneratedVideo>)response.RawRepresentation!).Single().Frames;
        (image.Width, image.Height).ShouldBe((expectedWidth, expectedHeight));
    }

    [Fact]
    public async Task Several_images_have_consecutive_seeds()
    {
        var fake = new FakeGenerator();
        using var images = fake.AsImageGenerator();
        var options = new ImageGenerationOptions
        {
            Count = 3,
            ImageSize = new Size(5, 2),
            ResponseFormat = ImageGenerationResponseFormat.Data,
            StreamingCount = 2, // there is no method that streams
            RawRepresentationFactory = _ => new VideoRequest { Prompt = "replaced by the request", Seed = 40 },
        };

        var response = await images.GenerateImagesAsync("a goat", options);

        response.Contents.Count.ShouldBe(3);
        response.Usage!.AdditionalCounts!["frames"].ShouldBe(3);
        fake.Requests.Select(r => (r.Prompt, r.Seed, r.Frames, r.Width, r.Height))
            .ShouldBe([("a goat", 40L, 1, 5, 2), ("a goat", 41L, 1, 5, 2), ("a goat", 42L, 1, 5, 2)]);
    }

    [Fact]
    public async Task Settings_of_the_raw_request_take_precedence_and_it_is_not_changed()
    {
        var fake = new FakeGenerator();
        using var images = fake.AsImageGenerator();
        var raw = new VideoRequest
        {
            Width = 3,
            Height = 3,
            Frames = 2,
        };
        var options = new ImageGenerationOptions { ImageSize = new Size(5, 2), RawRepresentationFactory = _ => raw };
        var response = await images.GenerateImagesAsync("a goat", options);
        (fake.Requests.Single().Width, fake.Requests.Single().Height, fake.Requests.Single().Frames).ShouldBe((3, 3, 2));
        response.Contents.Count.ShouldBe(1); // the first frame
        (raw.Prompt, raw.Seed).ShouldBe(("", null));
    }

    [Theory]
    [InlineData("image/png")]
    [InlineData("IMAGE/PNG")]
    [InlineData("image/jpeg")]
    [InlineData("image/webp")]
    public async Task The_media_type_is_the_format_of_the_data(string mediaType)
    {
        var fake = new FakeGenerator();
        using var images = fake.AsImageGenerator();
        var response = await images.GenerateImagesAsync("a goat", new ImageGenerationOptions { MediaType = mediaType });
        var content = (DataContent)response.Contents[0];
        content.MediaType.ShouldBe(mediaType.ToLowerInvariant());
        using var image = SixLabors.ImageSharp.Image.Load(content.Data.Span, out var format);
        format.DefaultMimeType.ShouldBe(mediaType.ToLowerInvariant());
        (image.Width, image.Height).ShouldBe((6, 4));
        if (mediaType is "image/webp")
        {
            Pixels(content).ShouldBe((await fake.GenerateAsync(fake.Requests[0])).Frames.Pixels.ToArray());
        }
    }

    [Fact]
    public async Task What_the_generator_cannot_do_is_refused_before_work_begins()
    {
        using var model = new TinyModel();
        using var generator = model.Generator();
        List<string> notes = [];
        using var images = generator.AsBuilder().Use(inner => new Noting(inner, "", notes)).Build().AsImageGenerator();

        await Refused<NotSupportedException>(new() { ResponseFormat = ImageGenerationResponseFormat.Uri }, "ResponseFormat is Uri");
        await Refused<NotSupportedException>(new() { ResponseFormat = ImageGenerationResponseFormat.Hosted }, "ResponseFormat is Hosted");
        await Refused<NotSupportedException>(new() { MediaType = "image/tiff" }, "'image/tiff'; the supported types are image/png");
        await Refused<ArgumentOutOfRangeException>(new() { Count = 0 }, "Count must be at least 1");
        await Refused<ArgumentOutOfRangeException>(new() { ImageSize = new Size(0, 5) }, "at least 1 pixel");
        await Refused<ArgumentException>(new() { ModelId = "other" }, "ModelId is 'other', but the model of this generator is 'tiny'");
        var edit = await Should.ThrowAsync<NotSupportedException>(images.EditImageAsync(new DataContent(new byte[] { 1 }, "image/png"), "a goat"));
        edit.Message.ShouldContain("does not change images");
        notes.ShouldBeEmpty();

        async Task Refused<T>(ImageGenerationOptions options, string message)
            where T : Exception => (await Should.ThrowAsync<T>(images.GenerateImagesAsync("a goat", options))).Message.ShouldContain(message);
    }

    [Fact]
    public async Task No_prompt_and_no_original_images_are_allowed()
    {
        var fake = new FakeGenerator();
        using var images = fake.AsImageGenerator();
        await images.GenerateAsync(new ImageGenerationRequest { OriginalImages = [] });
        fake.Requests.Single().Prompt.ShouldBe("");
    }

    [Fact]
    public async Task Cancellation_reaches_the_generator_between_images()
    {
        using var cancel = new CancellationTokenSource();
        var fake = new FakeGenerator(request =>
        {
            cancel.Cancel();
            return null;
        });
        using var images = fake.AsImageGenerator();
        await Should.ThrowAsync<OperationCanceledException>(
            images.GenerateImagesAsync("a goat", new ImageGenerationOptions { Count = 3 }, cancel.Token)
        );
        fake.Requests.Count.ShouldBe(1);
        await Should.ThrowAsync<OperationCanceledException>(images.GenerateImagesAsync("a goat", cancellationToken: cancel.Token));
        fake.Requests.Count.ShouldBe(1);
    }

    [Fact]
    public void The_video_generator_is_not_disposed()
    {
        var fake = new FakeGenerator();
        fake.AsImageGenerator().Dispose();
        fake.Disposals.ShouldBe(0);
    }

    [Fact]
    public async Task A_video_is_converted_to_content()
    {
        var video = await new FakeGenerator().Request("a goat").GenerateAsync();
        (await video.ToDataContentAsync("image/gif")).MediaType.ShouldBe("image/gif");
        var mp4 = await video.ToDataContentAsync();
        mp4.MediaType.ShouldBe("video/mp4");
        System.Text.Encoding.ASCII.GetString(mp4.Data.Span[4..8]).ShouldBe("ftyp");
        (await Should.ThrowAsync<ArgumentException>(video.ToDataContentAsync("image/png"))).Message.ShouldContain("the video has 4 frames");
        (await Should.ThrowAsync<ArgumentException>(video.ToDataContentAsync("video/webm"))).Message.ShouldContain("it must be one of video/mp4");
    }

    private static byte[] Pixels(DataContent content)
    {
        using var image = SixLabors.ImageSharp.Image.Load<Rgb24>(content.Data.Span);
        var pixels = new byte[image.Width * image.Height * 3];
        image.CopyPixelDataTo(pixels);
        return pixels;
    }
}
