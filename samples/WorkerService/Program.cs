// A worker service that generates a video for each text file in a folder. README.md shows how to run it.
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using OpenSora.Generation;

// appsettings.json is beside the program, wherever it is started.
var builder = Host.CreateApplicationBuilder(new HostApplicationBuilderSettings { Args = args, ContentRootPath = AppContext.BaseDirectory });
builder.Services.AddOpenSora();
builder.Services.AddHostedService<PromptFolder>();
await builder.Build().RunAsync();

/// <summary>Generates NAME.mp4 from the prompt in NAME.txt. The videos are the state of the service: a file whose video exists is done, and an
/// interrupted video does not exist, so the service can be stopped or killed at any time.</summary>
internal sealed class PromptFolder(
    IVideoGenerator generator,
    IConfiguration configuration,
    IHostApplicationLifetime lifetime,
    ILogger<PromptFolder> logger
) : BackgroundService
{
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        var folder = Directory.CreateDirectory(configuration["Prompts"] ?? "prompts").FullName;
        await generator.LoadAsync(cancellationToken: stoppingToken); // so that a missing model is noticed now
        logger.LogInformation("Waiting for text files in {Folder}", folder);
        using var timer = new PeriodicTimer(TimeSpan.FromSeconds(1));
        do
        {
            foreach (var prompt in Directory.EnumerateFiles(folder, "*.txt").Order(StringComparer.Ordinal))
            {
                await GenerateAsync(prompt, Path.ChangeExtension(prompt, ".mp4"), Path.ChangeExtension(prompt, ".error"), stoppingToken);
            }

            if (configuration.GetValue<bool>("Once"))
            {
                lifetime.StopApplication();
                return;
            }
        } while (await timer.WaitForNextTickAsync(stoppingToken));
    }

    private async Task GenerateAsync(string prompt, string video, string error, CancellationToken cancellationToken)
    {
        if (File.Exists(video) || File.Exists(error))
        {
            return;
        }

        try
        {
            var request = new VideoRequest { Prompt = (await File.ReadAllTextAsync(prompt, cancellationToken)).Trim() };
            if (request.Prompt.Length == 0)
            {
                return; // the file is not complete yet
            }

            var result = await generator.GenerateAsync(request, cancellationToken: cancellationToken);
            await result.SaveMp4Async(video, cancellationToken: cancellationToken); // the file appears when it is complete
            logger.LogInformation("Saved {Prompt} to {Video} after {Seconds:0.0} s", request.Prompt, video, result.Elapsed.TotalSeconds);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            // One bad prompt does not stop the service. Deleting the file tries it again.
            await File.WriteAllTextAsync(error, e.Message, cancellationToken);
            logger.LogError(e, "{Prompt} failed", prompt);
        }
    }
}
