const place = document.getElementById("swagger");

SwaggerUIBundle({
  domNode: place,
  url: place.dataset.schema,
  deepLinking: true,
  // Nobody else is asked whether the document is valid.
  validatorUrl: null,
});
