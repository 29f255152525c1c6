using OpenSora.Generation;

var builder = WebApplication.CreateBuilder(args);
builder.Services.AddOpenSora(); // settings: section OpenSora of appsettings.json
var app = builder.Build();

// For example: curl 'http://localhost:5000/videos?prompt=a+goat' --output goat.mp4
app.MapGet("/videos", async (string prompt, IVideoGenerator generator, CancellationToken cancellationToken) =>
{
    try
    {
        var video = await generator.Request(prompt).GenerateAsync(cancellationToken: cancellationToken);
        return Results.Stream(body => video.SaveMp4Async(body, cancellationToken), "video/mp4");
    }
    catch (ArgumentException e) // the model does not support the request
    {
        return Results.BadRequest(e.Message);
    }
    catch (InvalidOperationException e) when (e.Data.Contains(VideoGenerator.QueueFullKey)) // too many requests are waiting
    {
        return Results.Problem(e.Message, statusCode: StatusCodes.Status503ServiceUnavailable);
    }
});

app.Run();
